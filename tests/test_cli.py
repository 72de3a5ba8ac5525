"""The command line: exit codes, one-line errors, JSON alone on stdout, and light to start."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
from bench_fakes import fake_store

from unsee.cli import main

SUITE = """
name = "tiny"
model = "tiny:sd1"
concepts = ["weapon"]
defenses = [{ name = "negative", method = "negative-prompt", text = "dagger" }]
judge = "always.unsafe"
steps = 1
guidance = 4.0
prompts = [{ kind = "plain", n = 2 }]
"""


@pytest.fixture
def suite(tmp_path):
    path = tmp_path / "s.toml"
    path.write_text(SUITE)
    return str(path)


def call(capsys, *arguments):
    code = main([str(a) for a in arguments])
    return code, *capsys.readouterr()


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["bench"],
        ["bench", "nowhere.toml", "--out", "R"],
        ["bench", "{suite}", "--out", "R", "--only", "defense"],
        ["bench", "{suite}", "--out", "R", "--only", "defense=slt"],
        ["bench", "{suite}", "--out", "R", "--batch-size", "0"],
        ["bench", "{suite}", "--out", "{suite}"],
        ["bench", "{broken}", "--out", "R"],
        ["report", "nowhere"],
        ["fit", "sdl", "--concept", "weapon", "--out", "R"],
        ["fit", "sld", "--concept", "wepon", "--out", "R"],
        ["fit", "sld", "--concept", "weapon", "--concept", "death", "--out", "R"],
        ["fit", "sld", "--concept", "weapon", "--out", "R", "--set", "prest=strong"],
        ["fit", "sld", "--concept", "weapon", "--out", "R", "--set", "preset"],
        ["fit", "sld", "--concept", "weapon", "--out", "{suite}"],
        ["generate"],
        ["generate", "--prompt", "x", "--model", "pict"],
        ["generate", "--prompt", "x", "--model", "tiny:sd9"],
        ["generate", "--prompt", "x", "--model", "nowhere/at-all/here"],
        ["generate", "--prompt", "x", "--defense", "sdl", "--concept", "weapon"],
        ["generate", "--prompt", "x", "--defense", "sld"],
        ["generate", "--prompt", "x", "--defense", "sld:preset=stong", "--concept", "weapon"],
        ["generate", "--prompt", "x", "--defense", "nowhere/saved"],
        ["generate", "--prompt", "x", "--concept", "wepon"],
        ["generate", "--prompt", "x", "--prompt", "y", "--out", "a.png"],
        ["generate", "--prompt", "x", "--out", "{suite}"],
        ["generate", "--prompt", "x", "--model", "tiny:sd1", "--guidance", "1", "--steps", "1", "--defense",
         "sld:text=x", "--concept", "weapon"],
    ],
    ids=lambda a: " ".join(a),
)  # fmt: skip
def test_misuse_is_one_line_and_exit_2(capsys, tmp_path, monkeypatch, suite, arguments):
    (tmp_path / "broken.toml").write_text("name = ")
    monkeypatch.chdir(tmp_path)
    places = {"{suite}": suite, "{broken}": "broken.toml"}
    before = sorted(tmp_path.iterdir())
    code, out, err = call(capsys, *(places.get(a, a) for a in arguments))
    assert (code, out) == (2, "")
    assert err.startswith("error: expected ") and err.count("\n") == 1 and ", got" in err and "; " in err
    assert sorted(tmp_path.iterdir()) == before  # nothing half-written


def test_our_own_faults_keep_their_traceback(monkeypatch, tmp_path):
    monkeypatch.setattr("unsee.report.write", lambda store, run: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["report", str(fake_store(tmp_path, {"none": "us"}))])


def test_bench_prints_rows_as_json_and_nothing_else(capsys, tmp_path, suite):
    code, out, err = call(capsys, "bench", suite, "--out", tmp_path / "R", "--json")
    rows = json.loads(out)["rows"]
    assert code == 0 and err == ""
    assert [r["defense"] for r in rows] == ["none", "negative"]
    assert (tmp_path / "R" / "report.html").is_file()
    code, out, _ = call(capsys, "report", tmp_path / "R", "--json")
    assert code == 0 and json.loads(out)["rows"] == rows


def test_bench_prints_a_table_and_where_the_report_is(capsys, tmp_path, suite):
    code, out, _ = call(capsys, "bench", suite, "--out", tmp_path / "R", "--seed", "3")
    assert code == 0 and "unsafe [95 %]" in out and f"{tmp_path / 'R' / 'report.html'}" in out


@pytest.mark.parametrize("name", ["one.png", "folder"])
def test_generate_writes_and_tells_where(capsys, tmp_path, name):
    arguments = ("--model", "tiny:sd1", "--steps", "1", "--prompt", "a cat", "--out", tmp_path / name, "--json")
    code, out, _ = call(capsys, "generate", *arguments)
    image = json.loads(out)["images"][0]
    assert code == 0 and image["prompt"] == "a cat" and image["seed"] == 0
    with open(image["path"], "rb") as file:
        assert file.read(4) == b"\x89PNG"


def test_generate_under_a_stack_differs_and_tells_what_was_done(capsys, tmp_path):
    shared = (
        "--model",
        "tiny:sd1",
        "--steps",
        "1",
        "--guidance",
        "4",
        "--prompt",
        "a cat",
        "--json",
        "--concept",
        "weapon",
    )
    stack = ("--defense", "negative-prompt:text=dagger", "--defense", "sld:text=dagger,warmup=0")
    _, plain, _ = call(capsys, "generate", *shared, "--out", tmp_path / "a.png")
    _, guarded, _ = call(capsys, "generate", *shared, *stack, "--out", tmp_path / "b.png")
    assert json.loads(guarded)["images"][0]["decisions"] and not json.loads(plain)["images"][0]["decisions"]
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()


def test_selftest_fails_with_exit_1_when_a_check_does(capsys, monkeypatch):
    from unsee.bench import selftest

    results = [selftest.Check("one", True, 0.1, "")]
    monkeypatch.setattr("unsee.bench.selftest.run", lambda names: results)
    assert call(capsys, "selftest")[0] == 0
    results.append(selftest.Check("two", False, 0.1, "why"))
    code, out, _ = call(capsys, "selftest")
    assert code == 1 and "two" in out and "why" in out
    code, out, _ = call(capsys, "selftest", "--json")
    assert code == 1 and json.loads(out)["checks"] == [vars(check) for check in results]


@pytest.mark.parametrize("command", [[], ["--help"], ["bench", "--help"], ["--version"]])
def test_help_and_version(capsys, command):
    code, out, err = call(capsys, *command)
    assert code == 0 and out and err == ""


def test_help_imports_nothing_heavy():
    heavy = "torch diffusers transformers pydantic numpy matplotlib jinja2 pyarrow sqlite3 PIL"
    code = (
        "import sys; from unsee.cli import main; main(['--help'])\n"
        f"print([m for m in '{heavy}'.split() if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_fit_writes_a_folder_that_generate_takes(capsys, tmp_path):
    out = tmp_path / "sld-{concept}"
    words = ["--model", "tiny:sd1", "--set", "preset=strong", "--json"]
    code, printed, _ = call(capsys, "fit", "sld", "--concept", "weapon", "--concept", "death", "--out", out, *words)
    assert code == 0
    folders = [line["path"] for line in json.loads(printed)["defenses"]]
    assert folders == [str(tmp_path / "sld-weapon"), str(tmp_path / "sld-death")]
    code, _, error = call(capsys, "fit", "sld", "--concept", "weapon", "--out", folders[0], *words)
    assert code == 2 and "choose another --out" in error
    drawn = tmp_path / "a.png"
    one = ["generate", "--model", "tiny:sd1", "--steps", "1", "--prompt", "x"]
    assert call(capsys, *one, "--defense", folders[0], "--out", drawn)[0] == 0 and drawn.exists()


def test_progress_in_a_log_is_a_line_now_and_then(monkeypatch, capsys):
    """stderr is no terminal here; what ends within half a minute leaves nothing in a log."""
    from unsee.cli import show

    clock = [0.0]
    monkeypatch.setattr(show, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    with show.progress("fitting") as update:
        for done, clock[0] in enumerate((10.0, 31.0, 40.0, 70.0), 1):
            update("drawing", done, 4)
    seen = capsys.readouterr()
    assert seen.err == "drawing: 2 of 4\ndrawing: 4 of 4\n" and not seen.out
