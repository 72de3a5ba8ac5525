"""What is written is whole or not there, has the rights of the umask, and what the disk refuses is one line."""

import contextlib
import errno
import os
import resource
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from bench_fakes import fake_store
from PIL import Image

from unsee import writing
from unsee.bench.store import Store
from unsee.cli import main
from unsee.errors import BadFile, Unwritable, UserError
from unsee.files import save_tensors
from unsee.guards.negative_prompt import NegativePrompt
from unsee.sampling.machine import check_device
from unsee.types import Prompt, Sample

SOURCE = str(Path(writing.__file__).parents[1])


@contextlib.contextmanager
def short_files(most):
    """No file of this process grows beyond ``most`` bytes: what a full disk does, without one."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextlib.contextmanager
def nobody():
    """Without the rights of root, where the tests run as root."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@contextlib.contextmanager
def umask(mask):
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@pytest.fixture
def public():
    """A folder that everybody may reach: pytest's own are private."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    for place, _, _ in os.walk(folder):
        os.chmod(place, 0o755)
    shutil.rmtree(folder)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def left(folder):
    return sorted(path.name for path in folder.iterdir())


# -- rights ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mask", "file", "folder"), [(0o022, 0o644, 0o755), (0o002, 0o664, 0o775), (0o077, 0o600, 0o700)]
)
def test_all_that_is_written_has_the_rights_of_the_umask(tmp_path, mask, file, folder):
    with umask(mask):
        save_tensors(tmp_path / "a" / "w.safetensors", {"x": torch.zeros(2)})
        NegativePrompt(text="dagger").save_pretrained(tmp_path / "saved")
        NegativePrompt(text="bomb").save_pretrained(tmp_path / "saved")
        fake_store(tmp_path / "run", {"none": "us"})
    written = list(tmp_path.rglob("*"))
    assert {path.name for path in written} >= {"w.safetensors", "config.json", "store.sqlite", "writer.lock"}
    assert {mode(path) for path in written if path.is_file()} == {file}
    assert {mode(path) for path in written if path.is_dir()} == {folder}


# -- whole or not there ---------------------------------------------------------------------------


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_what_fails_leaves_what_was_there_and_nothing_else(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(error), writing.whole(path) as fresh:
        fresh.write_text("half")
        raise error
    assert path.read_text() == "old" and left(tmp_path) == ["a.txt"]


def test_parents_are_made_and_long_names_are_no_matter(tmp_path):
    name = "ü" * 120 + ".txt"  # 244 bytes of 255
    with writing.whole(tmp_path / "new" / name) as fresh:
        fresh.write_text("whole")
    assert (tmp_path / "new" / name).read_text() == "whole" and left(tmp_path / "new") == [name]


def test_leftovers_of_the_killed_go_and_those_of_the_living_stay(tmp_path):
    dead, mine = tmp_path / ".a.txt.0123abcd.part", tmp_path / ".a.txt.keep"
    dead.mkdir()
    (dead / "part").write_text("half")
    mine.mkdir()
    with writing.whole(tmp_path / "a.txt") as outer:
        with writing.whole(tmp_path / "a.txt") as inner:
            inner.write_text("inner")
        outer.write_text("outer")
    assert (tmp_path / "a.txt").read_text() == "outer" and left(tmp_path) == [".a.txt.keep", "a.txt"]


# -- a folder in the place of another -------------------------------------------------------------

SAVE = """
import os, signal, sys
from pathlib import Path
from unsee import writing
left, where, mode = int(sys.argv[2]), Path(sys.argv[1]), sys.argv[3]
if mode == "steps":
    writing._exchange = lambda one, other: False
def counted(call):
    def step(*args, **kwargs):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*args, **kwargs)
    return step
for name in ("rename", "rmdir", "unlink"):
    setattr(os, name, counted(getattr(os, name)))
writing._exchange = counted(writing._exchange)
with writing.placed(where) as fresh:
    (fresh / "config.json").write_text("new")
    (fresh / "more").mkdir()
    (fresh / "more" / "w").write_text("new")
"""


@pytest.mark.parametrize("how", ["exchange", "steps"])
def test_a_kill_at_any_step_leaves_the_old_or_the_new_whole(tmp_path, how):
    """SIGKILL before each renaming and each removal in turn; then a reader, then a save that is not disturbed."""
    seen = []
    for kill in range(20):
        folder = tmp_path / str(kill) / "defense"
        (folder / "more").mkdir(parents=True)
        for file in ("config.json", "more/w"):
            (folder / file).write_text("old")
        words = [sys.executable, "-c", SAVE, folder, str(kill), how]
        code = subprocess.run(words, env=os.environ | {"PYTHONPATH": SOURCE}, timeout=60).returncode
        writing.recover(folder)
        texts = {(folder / file).read_text() for file in ("config.json", "more/w")}
        assert len(texts) == 1
        seen += texts
        if code == 0:
            assert left(folder.parent) == ["defense"]
            break
        assert code == -9
        with writing.placed(folder) as fresh:
            (fresh / "config.json").write_text("again")
        assert left(folder.parent) == ["defense"] and left(folder) == ["config.json"]
    assert code == 0 and seen == sorted(seen, reverse=True) and set(seen) == {"old", "new"}


@pytest.mark.skipif(sys.platform != "linux", reason="renameat2 is Linux's")
def test_folders_change_places_in_one_step_where_the_system_can(tmp_path, monkeypatch):
    NegativePrompt(text="dagger").save_pretrained(tmp_path / "d")
    monkeypatch.setattr(writing, "_aside", None)  # would be called, if it were not one step
    NegativePrompt(text="bomb").save_pretrained(tmp_path / "d")
    assert NegativePrompt.from_pretrained(tmp_path / "d").text == "bomb" and left(tmp_path) == ["d"]


def test_a_defense_that_was_put_aside_is_found_by_who_loads_it(tmp_path):
    NegativePrompt(text="dagger").save_pretrained(tmp_path / "d")
    os.rename(tmp_path / "d", tmp_path / ".d.old")
    assert NegativePrompt.from_pretrained(tmp_path / "d").text == "dagger" and left(tmp_path) == ["d"]


def test_a_link_to_a_folder_stays_one_and_a_link_to_nothing_is_refused(tmp_path):
    NegativePrompt(text="dagger").save_pretrained(tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    NegativePrompt(text="bomb").save_pretrained(tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and NegativePrompt.from_pretrained(tmp_path / "real").text == "bomb"
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(BadFile, match="a link to nothing"):
        NegativePrompt(text="bomb").save_pretrained(tmp_path / "dangling")
    assert not (tmp_path / "nowhere").exists()


def test_one_process_makes_a_folder_and_a_dead_ones_lock_is_taken_over(tmp_path):
    (tmp_path / ".out.lock").mkdir()  # of a process that was killed
    with writing.alone(tmp_path / "out"):
        with pytest.raises(UserError, match="out in use by another process; wait"), writing.alone(tmp_path / "out"):
            pass
        with writing.alone(tmp_path / "other"):
            pass
    assert left(tmp_path) == []


# -- no room, no rights ---------------------------------------------------------------------------


def test_no_room_for_tensors_a_file_or_a_store_is_one_line_and_leaves_nothing(tmp_path):
    noise = Image.frombytes("RGB", (99, 99), os.urandom(3 * 99 * 99))
    with Store(tmp_path / "run", write=True) as store:
        store.put_samples({"a": Sample(noise, Prompt("x", "1", 0))}, {})
        with short_files(20_000):
            with pytest.raises(Unwritable, match=r"w.safetensors \(File too large\); free some room"):
                save_tensors(tmp_path / "w.safetensors", {"x": torch.zeros(9999)})
            with (
                pytest.raises(Unwritable, match=r"a.txt \(File too large\)"),
                writing.whole(tmp_path / "a.txt") as file,
            ):
                file.write_bytes(bytes(30_000))
            other = Image.frombytes("RGB", (99, 99), os.urandom(3 * 99 * 99))
            with pytest.raises(Unwritable, match=r"\.png \(File too large\)"):
                store.put_samples({"b": Sample(other, Prompt("x", "2", 0))}, {})
            with pytest.raises(Unwritable, match=r"store.sqlite \(.*\)"):
                store.put_measures((f"{i:050d}", "t", 1.0, 1.0) for i in range(9999))
        assert store.have_images() == {"a"} and not store.have_measures()
        store.put_samples({"b": Sample(other, Prompt("x", "2", 0))}, {})
    assert left(tmp_path) == ["run"] and not list((tmp_path / "run" / "images").glob("fresh-*"))


def test_every_refusal_of_a_disk_is_told_and_other_errors_are_not():
    for code in (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO):
        told = writing.refusal(OSError(code, os.strerror(code)), "R")
        assert isinstance(told, Unwritable) and f"R ({os.strerror(code)})" in str(told)
    assert writing.refusal(FileNotFoundError(errno.ENOENT, "x")) is None
    with pytest.raises(FileNotFoundError), writing.writing("R"):
        raise FileNotFoundError(errno.ENOENT, "a fault of ours")


@pytest.mark.parametrize("command", [
    ["fit", "sld", "--concept", "weapon", "--model", "tiny:sd1", "--out", "{}/new"],
    ["generate", "--model", "tiny:sd1", "--prompt", "x", "--out", "{}/new/a.png"],
    ["generate", "--model", "tiny:sd1", "--prompt", "x", "--out", "{}/new"],
    ["bench", "{suite}", "--out", "{}/new"],
    ["erase", "--concept", "weapon", "--out", "{}/new"],
    ["merge", "{run}", "--out", "{}/new"],
    ["report", "{run}", "--out", "{}/new"],
], ids=lambda command: " ".join(command[:1] + command[-1:]))  # fmt: skip
def test_where_nobody_may_write_it_is_told_before_a_model_is_loaded(public, capsys, monkeypatch, command):
    from bench_fakes import TINY

    monkeypatch.setattr("unsee.sampling.loading.load", None)  # would be called
    monkeypatch.setattr("unsee.bench.merge._facts", lambda store: {})
    monkeypatch.setattr("unsee.bench.merge._check", lambda facts: None)
    monkeypatch.setattr("unsee.sampling.machine.check_device", lambda device: None)
    toml = [f"{key} = {value!r}" for key, value in TINY.items() if key not in ("defenses", "prompts")]
    (public / "s.toml").write_text("\n".join([*toml, 'prompts = [{kind = "plain", n = 1}]']))
    fake_store(public / "run", {"none": "us"})
    closed = public / "closed"
    closed.mkdir()
    closed.chmod(0o555)
    if not os.geteuid():
        closed = Path("/sys/kernel")  # not even root
    places = {"{suite}": str(public / "s.toml"), "{run}": str(public / "run")}
    code = main([places[word] if word in places else word.format(closed) for word in command])
    out, err = capsys.readouterr()
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: expected a place to write, got ") and "(Permission denied); choose" in err
    assert not (closed / "new").exists()


def test_stdout_that_is_full_is_one_line():
    code = "import sys; from unsee.cli import main; sys.exit(main())"
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", code, "--version"], stdout=full, stderr=subprocess.PIPE, text=True,
                              env=os.environ | {"PYTHONPATH": SOURCE}, timeout=60)  # fmt: skip
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "standard output (No space left on device)" in done.stderr


@pytest.mark.parametrize("device", ["cuda:77", "meta", "nonsense", "", "cuda:", "hpu"])
def test_a_device_that_is_not_there_is_one_line_before_the_model(capsys, tmp_path, monkeypatch, device):
    monkeypatch.setattr("unsee.sampling.loading.load", None)
    code = main(["generate", "--prompt", "x", "--device", device, "--out", str(tmp_path / "a.png")])
    out, err = capsys.readouterr()
    assert (code, out, err.count("\n")) == (2, "", 1) and f"a device that torch has here, got {device!r}" in err
    assert len(err) < 400 and left(tmp_path) == []


def test_a_device_that_is_there_is_taken():
    check_device("cpu")
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="got 'cuda' .*; use cpu"):
            check_device("cuda")


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory"),
                                   torch.OutOfMemoryError("CUDA out of memory")])  # fmt: skip
def test_no_memory_is_one_line(capsys, tmp_path, monkeypatch, error):
    def fails(*args):
        raise error

    monkeypatch.setattr("unsee.report.write", fails)
    assert main(["report", str(fake_store(tmp_path, {"none": "us"}))]) == 1
    assert capsys.readouterr().err.startswith("error: expected enough memory, got ")


# -- a run on a read-only disk --------------------------------------------------------------------


def close(folder):
    for path in [*folder.rglob("*"), folder]:
        path.chmod(0o555 if path.is_dir() else 0o444)


@pytest.mark.parametrize("with_log", [False, True], ids=["at rest", "killed with a log"])
def test_a_run_on_a_read_only_disk_can_be_read(public, with_log):
    fake_store(public / "run", {"none": "us", "sld": "ss"})
    if with_log:  # what was stored last is in the log alone, as after kill -9
        with Store(public / "run", write=True) as store:
            before = len(store.records())
            store._db.execute("PRAGMA wal_autocheckpoint = 0")
            store.put_verdicts("weapon", {cell: store.records()[0].verdict for cell in store.have_images()})
            store.put_suite(store_suite(), "2", {}, {})  # no record has verdicts of this version
            shutil.copytree(public / "run", public / "copy")
        shutil.rmtree(public / "run")
        os.rename(public / "copy", public / "run")
        (public / "run" / "store.sqlite-shm").unlink()
        assert before and (public / "run" / "store.sqlite-wal").stat().st_size
    close(public / "run")
    with nobody(), Store(public / "run") as store:
        assert store.suites()["tiny"].judge_version == ("2" if with_log else "1")
        assert len(store.have_images()) == 8


def test_a_run_that_cannot_be_written_is_reported_on_stdout_or_elsewhere(tmp_path, capsys, monkeypatch):
    run, check = fake_store(tmp_path / "run", {"none": "us", "sld": "ss"}), writing.check_place

    def closed(folder):
        with writing.writing(folder):
            if folder == run:
                raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        check(folder)

    monkeypatch.setattr(writing, "check_place", closed)
    before = left(run)
    assert main(["report", str(run), "--json"]) == 0
    out, err = capsys.readouterr()
    assert '"defense": "sld"' in out and '"report": ""' in out
    assert err.count("\n") == 1 and err.startswith("warning: no pages are written: expected a place to write")
    assert main(["report", str(run), "--out", str(tmp_path / "pages")]) == 0
    assert left(tmp_path / "pages") == ["report.html", "report.json", "report.md"] and left(run) == before


def store_suite():
    from bench_fakes import suite

    return suite(prompts=[{"kind": k, "n": 2} for k in ("plain", "benign")])


def test_a_killed_process_holds_no_run(tmp_path):
    """The lock dies with its process: the next one goes on at once."""
    take = "import os, sys\nfrom unsee.bench.store import Store\ns = Store(sys.argv[1], write=True)\nos.abort()"
    done = subprocess.run([sys.executable, "-c", take, tmp_path], env=os.environ | {"PYTHONPATH": SOURCE}, timeout=120)
    assert done.returncode == -6 and (tmp_path / "writer.lock").exists()
    Store.check(tmp_path)
    with Store(tmp_path, write=True), pytest.raises(UserError, match="in use by another process"):
        Store.check(tmp_path)
