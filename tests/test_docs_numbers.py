"""The tables in README and docs are what results/ says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from scripts import docs_numbers

ROW = {
    "suite": "first", "model": "picto", "concept": "weapon", "defense": "sld", "attack": "none", "prompts": "plain",
    "split": "held-out", "n": 60, "unjudged": 1, "unsafe_rate": 0.25, "low": 0.158, "high": 0.372,
    "base_unsafe_rate": 0.95, "difference": -0.7, "difference_low": -0.8, "difference_high": -0.55,
    "preservation": 0.412, "clip_score": None, "seconds_per_image": 0.2,
}  # fmt: skip
DOCS = Path(__file__).parents[1] / "docs"
PAGE = "before\n<!-- numbers:first -->\nold\n<!-- /numbers -->\nafter\n"


@pytest.fixture
def root(tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text(PAGE)
    (tmp_path / "docs" / "log.md").write_text("nothing to write here\n")
    return tmp_path


def put(root: Path, rows: list, **more: object) -> None:
    (root / "results" / "first.json").write_text(json.dumps({"rows": rows, **more}))


def run(root: Path, *more: str) -> int:
    return docs_numbers.main(["--root", str(root), *more])


def test_writes_between_the_markers_only_and_once(root):
    put(root, [ROW], commit="0123456789abcdef", machine={"cpu": "2 cores"}, versions={"torch": "2.13.0"})
    assert run(root) == 0
    text = (root / "README.md").read_text()
    assert text.startswith("before\n<!-- numbers:first -->\n| concept |") and text.endswith(
        "<!-- /numbers -->\nafter\n"
    )
    assert "old" not in text and "commit 0123456789ab; cpu 2 cores; torch 2.13.0." in text
    assert "| weapon | plain, held-out | sld | 60 | 1 | 25.0 % [15.8, 37.2] | 95.0 % | −70.0 [−80.0, −55.0] |" in text
    assert run(root) == 0 and (root / "README.md").read_text() == text


def test_columns_that_hold_nothing_are_left_out(root):
    put(root, [ROW])
    run(root)
    text = (root / "README.md").read_text()
    assert "CLIP" not in text and "attack" not in text and "preservation" in text
    put(root, [ROW, {**ROW, "attack": "inversion", "clip_score": 0.3}])
    run(root)
    assert "| inversion |" in (root / "README.md").read_text() and "CLIP score" in (root / "README.md").read_text()


def test_a_marker_may_choose_rows(root):
    put(root, [ROW, {**ROW, "prompts": "benign"}, {**ROW, "prompts": "synonym"}, {**ROW, "concept": "death"}])
    marked = PAGE.replace("numbers:first", "numbers:first prompts=plain,benign concept=weapon")
    (root / "README.md").write_text(marked)
    assert run(root) == 0 and run(root, "--check") == 0
    lines = [line for line in (root / "README.md").read_text().splitlines() if line.startswith("| ")]
    assert len(lines) == 4 and "synonym" not in "".join(lines) and "death" not in "".join(lines)
    (root / "README.md").write_text(marked.replace("weapon", "tobacco"))
    assert run(root) == 0 and "No data" in (root / "README.md").read_text()


def test_a_matrix_has_a_line_for_each_defense(root):
    harmless = {**ROW, "prompts": "benign", "preservation_low": 0.4, "preservation_high": 0.43}
    put(root, [ROW, harmless, {**ROW, "attack": "p4d", "n": 50, "unsafe_rate": 0.5}, {**ROW, "defense": "none"}])
    (root / "README.md").write_text(PAGE.replace("numbers:first", "numbers:first view=matrix"))
    run(root)
    lines = [line for line in (root / "README.md").read_text().splitlines() if line.startswith("| ")]
    heads = ("plain: unsafe, N = 60", "benign: preservation, N = 60", "p4d: unsafe, N = 50")
    assert lines[0] == f"| concept | defense | {' | '.join(heads)} |"
    assert lines[2:] == [
        "| weapon | sld | 25.0 % [15.8, 37.2] | 0.41 [0.40, 0.43] | 50.0 % [15.8, 37.2] |",
        "| weapon | none | 25.0 % [15.8, 37.2] |  |  |",
    ]


def test_chances_and_spreads_are_told_where_the_rows_have_them(root):
    put(root, [ROW, ROW | {"p_holm": 0.0341, "preservation_low": 0.4, "preservation_high": 0.43}])
    run(root)
    lines = [line for line in (root / "README.md").read_text().splitlines() if line.startswith("| ")]
    place = [part.strip() for part in lines[0].split("|")].index("p (Holm)")
    assert [line.split("|")[place].strip() for line in lines[2:]] == ["", "0.034"]
    assert "0.41 [0.40, 0.43]" in lines[3] and "0.41 |" in lines[2]


def test_no_data_is_not_zero(root):
    put(root, [{**ROW, "n": 0, "unsafe_rate": None, "low": None, "high": None, "base_unsafe_rate": None,
                "difference": None, "difference_low": None, "difference_high": None}])  # fmt: skip
    run(root)
    assert "| no data | no data | no data |" in (root / "README.md").read_text()
    put(root, [])
    run(root)
    assert "No data" in (root / "README.md").read_text()


def test_what_is_not_measured_says_so(root):
    run(root)
    assert "Not measured yet: there is no `results/first.json`." in (root / "README.md").read_text()


def test_rows_of_another_kind_become_a_plain_table(root):
    put(root, [{"what": "unsafe_drawn", "value": 0.93123, "n": 400}, {"what": "vae_psnr", "value": 27.1}])
    run(root)
    assert (
        "| what | value | n |\n| --- | --- | --- |\n| unsafe_drawn | 0.931 | 400 |\n| vae_psnr | 27.1 |  |"
        in (root / "README.md").read_text()
    )


def test_check_writes_nothing_and_tells(root, capsys):
    put(root, [ROW])
    assert run(root, "--check") == 1
    assert (root / "README.md").read_text() == PAGE and "make docs-numbers" in capsys.readouterr().out
    run(root)
    assert run(root, "--check") == 0


def test_claims_are_a_table_of_their_own(root):
    check = {"metric": "dsr", "value": 0.4, "low": 0.2, "high": 0.6, "n": 50, "want": "> 0", "what": "a minus b",
             "relative": False, "bars": [0.0], "verdict": "reproduced"}  # fmt: skip
    said = {"paper": "DUO", "text": "It | holds.", "paper_value": "+.3"}
    told = [
        said | {"id": "two", "verdict": "not testable here", "checks": [], "why": "no GPU"},
        said | {"id": "one", "verdict": "reproduced", "checks": [check], "why": ""},
    ]
    put(root, [ROW], claims=told)
    (root / "README.md").write_text(PAGE.replace("numbers:first", "numbers:first table=claims"))
    run(root)
    text = (root / "README.md").read_text()
    assert "1 reproduced, 1 not testable here of 2." in text and "It \\| holds." in text and "| no GPU |" in text
    assert "| **reproduced** | DUO |" in text and "DSR +.40 [+.20, +.60], wanted > 0 (a minus b, N = 50) |" in text
    put(root, [ROW])
    assert run(root) == 0 and "No data: the results hold no claims." in (root / "README.md").read_text()


def test_what_attacks_spent_stands_beside_their_budget(root):
    none = dict.fromkeys(("encodings", "forwards", "backwards", "images"), 0.0)
    told = {"attack": "p4d", "sees": "model", "prompts": 50, "seconds": 1.154, **none, "forwards": 141.0}
    told |= {f"most_{key}": value for key, value in none.items()} | {"most_forwards": 375.02}
    put(root, [ROW], attacks=[told])
    (root / "README.md").write_text(PAGE.replace("numbers:first", "numbers:first table=attacks"))
    run(root)
    assert "| attack | reads | N | forwards / budget | s / prompt |" in (root / "README.md").read_text()
    assert "| p4d | model | 50 | 141 / 375 | 1.15 |" in (root / "README.md").read_text()


MEASURED = re.compile(
    r"\|\s*(?:[−-]?\d*\.\d+|\d+(?:\.\d+)? %|[−+-]?\d*\.?\d+ [\[±(][−+-]?\.?\d.*?|\d+ of \d+)\s*(?=\|)"
)


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", *(f"docs/{p.name}" for p in DOCS.glob("*.md"))])
def test_no_table_holds_a_number_that_nothing_stored(page):
    text = docs_numbers.MARK.sub("", (DOCS.parent / page).read_text())
    assert [line for line in text.splitlines() if line.startswith("|") and MEASURED.search(line)] == []


def test_a_measured_number_is_known_when_seen():
    for cell in (".613", "0.41", "12.5 %", "0.41 [0.40, 0.43]", "+12 [-13, 36]", "1.75 (1.61-1.90)", "11 of 16"):
        assert MEASURED.search(f"| a | {cell} | b |"), cell
    for cell in ("`preset=likely (.8)`", "3,000, 1, 5e-3, constant", "60 → 10 images", "0 done", "minutes"):
        assert not MEASURED.search(f"| a | {cell} | b |"), cell


def test_this_repository_is_up_to_date():
    assert docs_numbers.main(["--check"]) == 0
