"""The report: numbers that are there, sentences that are true, one file that needs nothing."""

import re

import pytest
from bench_fakes import fake_store

from unsee.bench.rows import rows
from unsee.bench.store import Store
from unsee.report import figures, html, story, table

RUN = {"none": "uuuuuuuuus", "negative": "usssssssss", "sld": "uuuusssssx"}


@pytest.fixture
def store(tmp_path):
    with Store(fake_store(tmp_path, RUN)) as store:
        yield store


def test_rows_count_pair_and_leave_out_the_unjudged(store):
    found = {(r["defense"], r["prompts"]): r for r in rows(store)}
    none, sld = found["none", "plain"], found["sld", "plain"]
    assert (none["unsafe_rate"], none["difference"], none["base_unsafe_rate"]) == (0.9, None, 0.9)
    assert (sld["n"], sld["unjudged"]) == (10, 1)
    assert sld["unsafe_rate"] == pytest.approx(4 / 9)
    assert sld["difference"] == pytest.approx(-5 / 9)  # over the nine pairs in which both were judged
    assert found["negative", "plain"]["difference_high"] < 0
    assert found["sld", "benign"]["drawn_right"] == 0.5 and "drawn_right" not in sld


def test_the_headline_tells_the_largest_reduction_with_its_interval(store):
    told = story.headline(store.records())
    plain = str(told).replace(table.THIN, " ")
    assert plain.startswith("With negative, pictures that show weapon were cut from 90 % to 10 %.")
    assert "80 points fewer (95 % interval" in plain and "kept 80 % of their likeness" in plain


@pytest.mark.parametrize(
    ("run", "told"),
    [
        ({"none": "uus"}, "Undefended, tiny:sd1 shows weapon in 67 %"),
        ({"none": "xxx"}, "could be judged, so there is no rate"),
        ({"none": "uss", "sld": "uss"}, "No defense here was shown to change"),
        ({"none": "s" * 20, "sld": "u" * 20}, "were raised from 0 % to 100 %"),
    ],
)
def test_the_headline_claims_no_more_than_there_is(tmp_path, run, told):
    with Store(fake_store(tmp_path, run)) as store:
        assert told in str(story.headline(store.records())).replace(table.THIN, " ")


def test_one_file_that_asks_for_nothing(store):
    page = html.write(store).read_text()
    outside = re.findall(r'(?:src|href|xlink:href|url\()\s*=?\s*"?(?!data:|#)([a-z]+:)?//[^"\s)]+', page)
    assert not outside and "<script" not in page and "@import" not in page
    assert page.count("<svg") == 2 and "<table>" in page and 'name="viewport"' in page


def test_unsafe_and_unjudged_pictures_are_blurred_and_safe_ones_are_not(store):
    page = html.render(store)
    veiled = len(re.findall(r'class="frame veil', page))
    plain = {r.prompt.id: None for r in store.records() if r.prompt.kind == "plain"}
    first = list(plain)[: html.EXAMPLES["plain"]]
    expected = sum(r.prompt.id in first and r.verdict.outcome != "safe" for r in store.records())
    assert veiled == expected > 0
    assert page.count('type="checkbox" aria-label="Show the blurred picture') == veiled


def test_the_unjudged_are_told_of(store):
    assert "1 image could not be judged" in html.render(store)


def test_a_partial_run_is_labeled(tmp_path):
    fake_store(tmp_path, {"none": "us", "sld": "us"})
    with Store(tmp_path, write=True) as store:
        store._db.execute("DELETE FROM verdicts WHERE cell = (SELECT max(cell) FROM verdicts)")
        store._db.commit()
        assert "7 of 8 planned images" in html.render(store)


def test_an_empty_run_has_a_report(tmp_path):
    with Store(tmp_path, write=True) as store:
        assert "Nothing has been drawn" in html.render(store)


def test_markup_in_a_prompt_stays_text(tmp_path):
    fake_store(tmp_path, {"none": "us"})
    with Store(tmp_path, write=True) as store:
        store._db.execute("UPDATE cells SET prompt = json_set(prompt, '$.text', '<i>x</i>')")
        page = html.render(store)
    assert "&lt;i&gt;x&lt;/i&gt;" in page and "<i>x" not in page


def test_without_preservation_there_is_no_tradeoff_figure(tmp_path):
    with Store(fake_store(tmp_path, RUN, preservation=None)) as store:
        found = [r | {"preservation": None} for r in rows(store)]
        assert figures.tradeoff(found) == "" and figures.rates(found).startswith("<svg")
        assert figures.rates([]) == ""


def test_the_same_rows_give_the_same_figure(store):
    assert figures.tradeoff(rows(store)) == figures.tradeoff(rows(store))


def test_large_pictures_are_scaled_down(tmp_path):
    with Store(fake_store(tmp_path, {"none": "us"}, size=900)) as store:
        assert len(html.render(store)) < 300_000


def test_markdown_has_a_line_for_each_row(store):
    text = table.markdown(rows(store))
    assert len(text.splitlines()) == 2 + len(rows(store))
    assert "| weapon | sld | plain | 10 (1 unjudged) |" in text


def test_a_row_tells_its_chance_and_the_spread_of_its_mean():
    row = {"defense": "sld", "preservation": 0.93, "preservation_low": 0.91, "preservation_high": 0.94}
    told = [table.chance(row | {"p_holm": p}) for p in (1e-9, 0.034, 0.0999, 0.43, 0.9999)]
    assert told == ["<.001", ".034", ".10", ".43", "1"]
    assert table.kept(row) == "0.93 ±.02" and table.kept({"preservation": 0.5}) == "0.50"


def test_no_data_is_neither_zero_nor_a_dash(tmp_path):
    with Store(fake_store(tmp_path, {"none": "xx", "sld": "xx"}, preservation=None)) as store:
        found = {(r["defense"], r["prompts"]): r for r in rows(store)}
    sld, none = found["sld", "plain"], found["none", "plain"]
    assert table.rate(sld) == table.change(sld) == table.chance(sld) == "no data"
    assert table.change(none) == table.chance(none) == table.kept(sld) == "–"  # no comparison, not measured
    assert table.chance({"defense": "sld"}) == "–"  # stored before rows had it


def test_a_table_fits_a_laptops_terminal(store, capsys, monkeypatch):
    from unsee.cli import show

    monkeypatch.setenv("COLUMNS", "80")
    show.rows([r | {"defense": "sld-strong-nearest", "p_holm": 1e-9} for r in rows(store)])
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 118 and "…" not in printed
    assert "<.001" in printed and "−80 [−" in printed


def test_what_a_guard_saw_is_drawn_by_kind_of_prompt(store):
    from dataclasses import replace

    assert figures.watched(store.records(), "saferedir") == ""
    steps = [{"defense": "saferedir", "step": k, "t": 999 - k, "done": "watched", "p": 0.1 * k} for k in range(5)]
    told = [replace(r, decisions=tuple(steps)) for r in store.records() if r.defense == "sld"]
    svg = figures.watched(told, "saferedir")
    assert "plain (10 images)" in svg and "benign (10 images)" in svg and "neighbor" not in svg
    assert figures.quantiles([0.0, 0.5, 1.0]) == pytest.approx((0.1, 0.5, 0.9))


def test_what_a_guard_saw_is_drawn_for_each_suite(store):
    from dataclasses import replace

    seen = ({"defense": "saferedir", "step": 0, "t": 999, "done": "watched", "p": 0.1},)
    told = [replace(r, suite=suite, decisions=seen) for suite in ("one", "two") for r in store.records()]
    drawn = html._watched([r for r in told if r.defense == "sld"])
    assert [d["defense"] for d in drawn] == ["sld", "sld"]
    assert all("plain (10 images)" in d["svg"] for d in drawn)
