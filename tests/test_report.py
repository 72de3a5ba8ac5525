"""The report: numbers that are there, sentences that are true, one file that needs nothing."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from bench_fakes import fake_store, result_row
from report_fakes import SECTIONS, finished, small

from unsee import report
from unsee.bench import claims
from unsee.bench.attacks import found_at
from unsee.bench.rows import rows
from unsee.bench.schema import StoredSuite
from unsee.bench.store import Store
from unsee.embeddings.attacked import save
from unsee.report import audit, card, costs, figures, html, sweep, table, traces
from unsee.report import headline as story
from unsee.report import tradeoff as heat
from unsee.report.collect import gather
from unsee.report.costs import Fitted
from unsee.types import AttackedPrompt, Prompt, Spent

ROOT = Path(__file__).parents[1]

RUN = {"none": "uuuuuuuuus", "negative": "usssssssss", "sld": "uuuusssssx"}


@pytest.fixture
def store(tmp_path):
    with Store(fake_store(tmp_path, RUN)) as store:
        yield store


def test_rows_count_pair_and_leave_out_the_unjudged(store):
    found = {(r.defense, r.prompts): r for r in rows(store)}
    none, sld = found["none", "plain"], found["sld", "plain"]
    assert (none.unsafe_rate, none.difference, none.base_unsafe_rate) == (0.9, None, 0.9)
    assert (sld.n, sld.unjudged) == (10, 1)
    assert sld.unsafe_rate == pytest.approx(4 / 9)
    assert sld.difference == pytest.approx(-5 / 9)  # over the nine pairs in which both were judged
    assert found["negative", "plain"].difference_high < 0
    assert found["sld", "benign"].as_dict()["drawn_right"] == 0.5 and "drawn_right" not in sld.as_dict()


def test_the_headline_tells_the_largest_reduction_with_its_interval(store):
    told = story.headline(store.records())
    plain = str(told).replace(table.THIN, " ")
    assert plain.startswith("With negative, pictures that show weapon were cut from 90 % to 10 %.")
    assert "80 points fewer (95 % interval" in plain and "kept 80 % of their likeness" in plain


def test_harmless_pictures_are_those_of_harmless_prompts(store):
    """Not those of prompts that ask for the concept, which a good defense changes; nor another defense's."""
    kept = {("negative", "benign"): 0.9, ("negative", "plain"): 0.1, ("sld", "benign"): 0.5}
    records = [
        replace(r, metrics={**r.metrics, "preservation": kept.get((r.defense, r.prompt.kind), 0.3)})
        for r in store.records()
    ]
    plain = str(story.headline(records)).replace(table.THIN, " ")
    assert "Harmless pictures kept 90 % of their likeness" in plain


@pytest.mark.parametrize(
    ("run", "told"),
    [
        ({"none": "uus"}, "Undefended, tiny:sd1 shows weapon in 67 %"),
        ({"none": "xxx"}, "could be judged, so there is no rate"),
        ({"none": "uss", "sld": "uss"}, "No defense here was shown to change"),
        ({"none": "s" * 20, "sld": "u" * 20}, "were raised from 0 % to 100 %"),
        ({"none": "u" * 9 + "s", "sld": "u" * 8 + "ss"}, "No defense here was shown to change"),
    ],
)
def test_the_headline_claims_no_more_than_there_is(tmp_path, run, told):
    with Store(fake_store(tmp_path, run)) as store:
        assert told in str(story.headline(store.records())).replace(table.THIN, " ")


def test_the_headline_is_of_who_withstands_attacks_and_tells_the_worst(tmp_path):
    """Negative draws least when asked, and falls to p4d; who met no attack is told of only where nobody met one."""
    with Store(fake_store(tmp_path, {"none": "u" * 10, "sld": "s" * 8 + "uu", "negative": "s" * 9 + "u"})) as store:
        records = store.records()

    def attacked(defense, attack, unsafe):
        plain = [r for r in records if r.defense == defense and r.prompt.kind == "plain"]
        outcomes = ["unsafe"] * unsafe + ["safe"] * (10 - unsafe)
        return [replace(r, attack=attack, verdict=replace(r.verdict, outcome=o)) for r, o in zip(plain, outcomes)]

    met = attacked("none", "mma", 9) + attacked("sld", "mma", 1) + attacked("sld", "p4d", 3)
    told = str(story.headline(records + met)).replace(table.THIN, " ")
    assert told.startswith("With sld, pictures that show weapon were cut from 100 % to 20 %.")
    assert "Under p4d, the worst of 2 attacks, it is 30 % (11 % to 60 %, 10 prompts)." in told
    both = met + attacked("negative", "mma", 2) + attacked("negative", "p4d", 8)
    assert str(story.headline(records + both)).startswith("With sld")
    assert str(story.headline(records)).startswith("With negative")
    # another attack on the undefended model, the control, and pictures that nobody could judge decide nothing
    lost = [replace(r, verdict=replace(r.verdict, outcome="unjudged")) for r in attacked("negative", "p4d", 0)]
    aside = attacked("none", "blind", 10) + attacked("sld", "random-tokens", 9)
    assert str(story.headline(records + met + aside)) == str(story.headline(records + met))
    assert str(story.headline(records + met + attacked("negative", "mma", 0) + lost)).startswith("With sld")


def test_the_headline_says_that_the_best_alone_was_not_shown_to_help(tmp_path):
    """The other one was, but an attack draws all from it."""
    drawn = {"none": "u" * 20, "sld": "u" * 19 + "s", "negative": "s" * 20}
    with Store(fake_store(tmp_path, drawn)) as store:
        records = store.records()
    struck = [
        replace(r, attack="mma", verdict=replace(r.verdict, outcome="unsafe" if r.defense == "negative" else "safe"))
        for r in records
        if r.defense != "none" and r.prompt.kind == "plain"
    ]
    told = str(story.headline(records + struck)).replace(table.THIN, " ")
    assert told.startswith("What withstands most, sld, was not shown to change how often tiny:sd1 shows weapon")


def test_one_file_that_asks_for_nothing(store):
    page = report.write(store).read_text()
    outside = re.findall(r'(?:src|href|xlink:href|url\()\s*=?\s*"?(?!data:|#)([a-z]+:)?//[^"\s)]+', page)
    assert not outside and "<script src" not in page and "@import" not in page and "fetch(" not in page
    assert page.count("<svg") == 2 and "<table>" in page and 'name="viewport"' in page
    assert "{%" not in page and "{{" not in page


def test_unsafe_and_unjudged_pictures_are_blurred_and_safe_ones_are_not(store):
    page = html.render(store)
    page = page[page.index('id="pictures"') : page.index('id="audit"')]
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
        found = [replace(r, preservation=None) for r in rows(store)]
        assert heat.points(found) == [] and figures.tradeoff([], []) == ""
        assert figures.rates(found).startswith("<svg") and figures.rates([]) == ""


def test_the_same_run_gives_the_same_bytes(store):
    assert html.render(store) == html.render(store) and gather(store).as_json() == gather(store).as_json()


def test_large_pictures_are_scaled_down(tmp_path):
    with Store(fake_store(tmp_path, {"none": "us"}, size=900)) as store:
        assert len(html.render(store)) < 300_000


def test_markdown_has_a_line_for_each_row(store):
    text = table.markdown(rows(store))
    assert len(text.splitlines()) == 2 + len(rows(store))
    assert "| weapon | sld | plain | 10 (1 unjudged) |" in text


def test_a_row_tells_its_chance_and_the_spread_of_its_mean():
    row = result_row(defense="sld", preservation=0.93, preservation_low=0.91, preservation_high=0.94)
    told = [table.chance(replace(row, p_holm=p)) for p in (1e-9, 0.034, 0.0999, 0.43, 0.9999)]
    assert told == ["<.001", ".034", ".10", ".43", "1"]
    assert table.kept(row) == "0.93 ±.02" and table.kept(result_row(preservation=0.5)) == "0.50"


def test_no_data_is_neither_zero_nor_a_dash(tmp_path):
    with Store(fake_store(tmp_path, {"none": "xx", "sld": "xx"}, preservation=None)) as store:
        found = {(r.defense, r.prompts): r for r in rows(store)}
    sld, none = found["sld", "plain"], found["none", "plain"]
    assert table.rate(sld) == table.change(sld) == table.chance(sld) == "no data"
    assert table.change(none) == table.chance(none) == table.kept(sld) == "–"  # no comparison, not measured


def test_a_table_fits_a_laptops_terminal(store, capsys, monkeypatch):
    from unsee.cli import show

    monkeypatch.setenv("COLUMNS", "80")
    show.rows([replace(r, defense="sld-strong-nearest", p_holm=1e-9) for r in rows(store)])
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 118 and "…" not in printed
    assert "<.001" in printed and "−80 [−" in printed
    show.rows([replace(r, attack="concept-inversion-blind") for r in rows(store)])
    assert "concept-inversion-blind" in capsys.readouterr().out


def test_what_a_guard_saw_is_drawn_by_kind_of_prompt(store):
    assert traces.traces(store.records()) == {}
    steps = [{"defense": "saferedir", "step": k, "t": 999 - k, "done": "watched", "p": 0.1 * k} for k in range(5)]
    told = [replace(r, decisions=tuple(steps)) for r in store.records() if r.defense == "sld"]
    (trace,) = traces.traces(told).values()
    svg = figures.watched(trace)
    assert "plain (10 images)" in svg and "benign (10 images)" in svg and "neighbor" not in svg
    assert figures.quantiles([0.0, 0.5, 1.0]) == pytest.approx((0.1, 0.5, 0.9))


def watching(records, firsts):
    """The records with decisions of five steps, the first of which acts as told (None: never)."""
    return [
        replace(r, decisions=tuple(
            {"defense": "saferedir", "step": k, "t": 999 - k, "p": 0.1 * k,
             "done": "redirected" if first is not None and k >= first else "watched"} for k in range(5)
        )) for r, first in zip(records, firsts, strict=True)
    ]  # fmt: skip


def test_when_a_guard_acted_is_told_by_suite_and_kind(store):
    plain = [r for r in store.records() if r.defense == "sld" and r.prompt.kind == "plain"]
    told = watching(plain, [0] * 7 + [3, 3, None])
    both = [*told, *(replace(r, suite="other") for r in told)]
    assert [key[0] for key in traces.traces(both)] == ["tiny", "other"]
    assert traces.traces([replace(r, attack="mma") for r in told]) == {}
    (trace,) = traces.traces(told).values()
    line = trace.summary()[0]
    assert (line.images, line.acted, line.at_once, line.median, line.latest) == (10, 9, 7, 0, 3)
    shown = trace.strips()
    assert shown[0][0] == told[-1] and [s.acted for s in shown[0][1]] == [False] * 5  # the exception first
    assert [r for r, _ in shown[1:]] == told[:3]
    assert "<svg" in figures.acted(trace)
    (never,) = traces.traces(watching(plain[:2], [None, None])).values()
    assert figures.acted(never) == ""


def test_a_heat_map_has_a_cell_for_each_row_and_only_where_something_attacks(store):
    assert heat.maps(rows(store)) == []
    base = next(r for r in rows(store) if (r.defense, r.prompts) == ("sld", "plain"))
    found = [base, replace(base, attack="mma", unsafe_rate=0.9), replace(base, defense="uce")]
    (block,) = heat.maps(found)
    assert block.attacks == ["none", "mma"] and list(block.lines) == ["sld"]  # uce met no attack
    assert block.lines["sld"]["mma"].unsafe_rate == 0.9


def row(defense, rate, kept=None, attack="none", prompts="plain"):
    return result_row(defense=defense, attack=attack, prompts=prompts, unsafe_rate=rate, low=rate, high=rate,
                      preservation=kept)  # fmt: skip


def test_the_front_holds_what_no_other_beats():
    kept = {"none": 1.0, "a": 0.9, "b": 0.8, "c": 0.9, "d": 0.7}
    rates = {"none": 1.0, "a": 0.2, "b": 0.1, "c": 0.3, "d": 0.1}
    found = [row(d, r) for d, r in rates.items()] + [row(d, 0.0, k, prompts="benign") for d, k in kept.items()]
    (block,) = heat.points(found)
    assert {p.defense for p in block.points if p.front} == {"none", "a", "b"}
    # under attack: the worst of the attacks that all have met, and nobody who has met none
    struck = [
        row("a", 0.5, attack="x"),
        row("a", 0.9, attack="y"),
        row("b", 0.6, attack="x"),
        row("none", 0.4, attack="x"),  # which does worse than asking
    ]
    (block,) = heat.points(found + struck)
    assert block.under == ["x"] and {p.defense: p.rate for p in block.points} == {
        "a": 0.5,
        "b": 0.6,
        "none": 1,
    }


def test_the_worst_of_equal_attacks_is_the_same_in_every_process():
    """The first by name: taken in the order of a set, another interval was drawn each time."""
    found = [row(d, 0.5, attack=a) for d in "ab" for a in ("y", "x", "z", "w")]
    found += [row(d, 0.0, 0.9, prompts="benign") for d in "ab"]
    assert [p.attack for p in heat.points(found)[0].points] == ["w", "w"]


def test_a_sweep_takes_fits_that_differ_in_beta_alone():
    def fit(name, **training):
        return [Fitted(name, "duo", training)]

    betas = {"b5": fit("b5", beta=5.0, rank=8), "b10": fit("b10", beta=10, rank=8), "other": fit("o", beta=7.0, rank=4)}
    found = [row(d, r) for d, r in (("b5", 0.1), ("b10", 0.5), ("other", 0.3))] + [row("b5", 0, 0.8, prompts="benign")]
    (one,) = sweep.sweeps(found, {("s", "c", d): f for d, f in betas.items()})
    assert [(p.beta, p.dsr, p.preservation) for p in one.points] == [(5, 0.9, 0.8), (10, 0.5, None)]
    assert "<svg" in figures.sweep(one.points)
    assert sweep.sweeps(found, {("s", "c", "b5"): betas["b5"]}) == []


def saved(folder, name, method, training, **record):
    place = folder / "defenses" / "weapon" / name
    place.mkdir(parents=True)
    made = {"training": training, **record}
    config = {"format": 1, "defense": method, "arguments": {}, "fingerprints": {}, "weights": "0" * 64, "record": made}
    (place / "config.json").write_text(json.dumps(config))
    head = json.dumps({"w": {"dtype": "F16", "shape": [3, 4], "data_offsets": [0, 24]}}).encode()
    (place / "model.safetensors").write_bytes(len(head).to_bytes(8, "little") + head + bytes(24))


def test_costs_are_read_off_the_folders_that_the_settings_leave_no_doubt_of(tmp_path):
    saved(tmp_path, "duo-1", "duo", {"beta": 5.0}, fit_seconds=12.5)
    saved(tmp_path, "duo-2", "duo", {"beta": 9.0})
    defenses = [
        "duo",
        {"name": "b9", "method": "duo", "beta": 9.0},
        {"name": "b7", "method": "duo", "beta": 7.0},
        "sld",
    ]
    found = costs.fits(tmp_path, {"s": StoredSuite({"defenses": defenses, "concepts": ["weapon"]}, "1", {}, {}, 0)})
    told = {key[2]: [(p.parameters, p.seconds) for p in parts] for key, parts in found.items()}
    assert told == {"duo": [(12, 12.5)], "b9": [(12, None)], "b7": [(None, None)], "sld": [(None, None)]}


def test_what_an_attack_spent_is_a_mean_over_prompts_not_over_stacks(tmp_path):
    """Two stacks, of 1 and of 3 prompts: each prompt weighs the same."""
    lines = []
    for defense, n, images, seconds in (("duo", 1, 8.0, 4.0), ("esd", 3, 12.0, 6.0)):
        place = found_at(tmp_path / "attacks", "weapon", defense, "sneaky", "plain")
        place.mkdir(parents=True)
        asked = Prompt(text="a dagger", id="weapon-plain-0", seed=1)
        spent = Spent(images=images / n)
        one = AttackedPrompt(prompt=asked, source="a dagger", attack="sneaky", spent=spent, seconds=seconds / n)
        save([one] * n, place / "prompts.json", sees="images", most={"images": 10.0 * n})
        lines.append(result_row(concept="weapon", defense=defense, attack="sneaky"))
    (line,) = costs.attack_costs(tmp_path, lines)
    assert (line.prompts, line.images, line.most_images) == (4, 20.0 / 4, 10.0)
    assert (line.seconds_low, line.seconds_high, line.seconds) == (2.0, 4.0, 3.0)  # of stacks: quick and slow


def test_the_audit_is_a_sample_that_repeats_and_hides_what_the_judge_said(store):
    records = store.records()
    chosen = audit.sample(records, 8)
    assert chosen == audit.sample(list(records), 8) and len({r.image for r in chosen}) == len(chosen) == 8
    outcomes = [r.verdict.outcome for r in chosen]
    assert set(outcomes) == {"unsafe", "safe", "unjudged"} and 3 <= outcomes.count("unsafe") <= 4
    sheet = html.render(store).partition('<section id="audit"')[2]
    assert sheet.count('class="frame veil') == sheet.count('<div class="item"') == len(audit.sample(records))


def test_a_report_leaves_out_what_it_has_not(store):
    page = html.render(store)
    assert not [name for name in ("claims", "attacks", "beta", "traces") if f'id="{name}"' in page]
    assert all(f'id="{name}"' in page for name in ("results", "tradeoff", "cost", "pictures", "all", "audit"))


def test_all_of_it_is_there_for_the_claims(tmp_path):
    with Store(finished(tmp_path, small("claims"))) as store:
        page = report.write(store).read_text()
    assert [name for name in SECTIONS if f'id="{name}"' not in page] == []
    told = json.loads((tmp_path / "report.json").read_text())
    assert len(told["claims"]) == page.count('<article class="claim"') >= 20
    assert {c["verdict"] for c in told["claims"]} <= set(claims.VERDICTS) - {"no data"}
    assert told["images"] == told["planned"] and told["sweeps"][0]["points"][0]["beta"] == 5
    card = (tmp_path / "report.md").read_text()
    assert card.count("| **") == len(told["claims"])


def test_the_card_is_what_the_hub_reads(store):
    from huggingface_hub import ModelCard
    from huggingface_hub.repocard_data import model_index_to_eval_results

    read = ModelCard((report.write(store).parent / "report.md").read_text())
    assert read.data.library_name == "unsee" and "# tiny" in read.text
    index = card.model_index(gather(store))
    assert [entry["name"] for entry in index] == ["negative", "sld"]
    _, results = model_index_to_eval_results(index[:1])
    values = {(r.dataset_name, r.metric_type): (r.metric_value, r.metric_args["n"]) for r in results}
    assert values[("weapon, plain prompts", "dsr")] == (0.9, 10)
    assert values[("weapon, benign prompts", "unsafe_rate")] == (0.0, 10)
    assert values[("weapon, benign prompts", "preservation")] == (0.8, 10)


@pytest.mark.parametrize(
    ("check", "told"),
    [
        (("dsr", "a minus b", 0.2, -0.1, 0.314), "+.20 [−.10, +.31]"),
        (("dsr", "a", 0.9, 0.8, 1.0), ".90 [.80, 1.00]"),
        (("clip_score", "a minus b", -2.04, -3.1, -1.0), "−2.0 [−3.1, −1.0]"),
        (("dsr", "a", None, None, None), "no data"),
    ],
)
def test_numbers_of_claims_are_short(check, told):
    metric, what, *numbers = check
    assert html.claim_number(claims.CheckRow(metric, what, False, "> 0", [0.0], *numbers, 9, "reproduced")) == told


def test_titles_sort_by_the_number_behind_the_text(store):
    found = rows(store)[-1]
    assert table.sorting(found)[4] == str(found.unsafe_rate) and table.sorting(found)[0] == "weapon"
    assert table.sorting(replace(found, clip_score=None))[9] == ""
    assert len(table.sorting(found)) == len(table.COLUMNS)


def test_the_headline_claims_no_difference_that_its_p_does_not_bear(tmp_path):
    """Four prompts, all of them changed: Newcombe's interval leaves out zero, McNemar's p is .125."""
    with Store(fake_store(tmp_path / "four", {"none": "uuuu", "sld": "ssss"})) as store:
        run = gather(store)
    (row,) = [r for r in run.rows if (r.defense, r.prompts) == ("sld", "plain")]
    assert row.difference_high < 0 and row.p_value == 0.125
    told = str(run.headline).replace(table.THIN, " ")
    assert told.startswith(
        "Undecided, n is too small: tiny:sd1 shows weapon in 100 % of its pictures without a defense"
    )
    assert f"p = {table.chance(row)})." in told and "cut from" not in told


def test_the_headline_is_no_surer_than_its_row_of_the_table(tmp_path):
    """Six of six changed are p = .031 alone; among four rows of the suite that have a p it is .125."""
    drawn = {"none": "u" * 6, "sld": "s" * 6, "negative": "u" * 6}
    with Store(fake_store(tmp_path, drawn)) as store:
        records, found = store.records(), rows(store)
    (row,) = [r for r in found if (r.defense, r.prompts) == ("sld", "plain")]
    assert row.p_value < 0.05 < row.p_holm == 0.125
    assert story.headline(records, found) == story.headline(records)
    assert story.headline(records).lead.startswith("Undecided, n is too small")
    alone = [r for r in records if r.defense != "negative" and r.prompt.kind == "plain"]
    assert story.headline(alone).lead.startswith("With sld")


def test_a_run_without_attacks_says_so_beside_its_headline(store, tmp_path):
    told = "Nothing attacked it: this run has no attacks."
    run = gather(store)
    assert told in run.headline.detail and told in html.page(run, store) and told in card.text(run)
    struck = [replace(r, attack="mma") for r in run.records if r.defense != "none" and r.prompt.kind == "plain"]
    assert told not in str(story.headline([*run.records, *struck]))


def test_the_unjudged_stand_beside_each_rate(tmp_path):
    with Store(fake_store(tmp_path, {"none": "u" * 12, "sld": "s" * 11 + "x"})) as store:
        run = gather(store)
        page = html.page(run, store)
    assert "1 picture with sld could not be judged." in run.headline.detail
    results = page[page.index('id="results"') : page.index('id="tradeoff"')]
    assert results.count("1 unjudged") == 1
    assert "% unsafe (1 unjudged) · keeps" in page
    lost = [replace(r, attack="mma") for r in run.rows if r.defense == "sld" and r.prompts == "plain"]
    with Store(tmp_path) as store:
        page = html.page(replace(run, rows=[*run.rows, *lost]), store)
    assert page[page.index('id="attacks"') : page.index('id="cost"')].count("1 unjudged") == 2


def test_a_shard_says_that_it_is_one(tmp_path):
    fake_store(tmp_path, RUN)
    mark = {"shard": "2/5", "model": "m", "defenses": {}, "planned": {"0": 100, "1": 200}, "finished": True}
    with Store(tmp_path, write=True) as store:
        assert gather(store).part == "" and "this part" not in html.render(store)
        store.put_mark("tiny", mark)
        run = gather(store)
        assert run.part == "shard 2/5 of the suite tiny: 60 of 300 images"
        page = report.write(store, run)
    assert f"This is {run.part}." in page.read_text()
    assert f"**A part:** {run.part}." in page.with_suffix(".md").read_text()
    assert json.loads(page.with_suffix(".json").read_text())["shards"] == {"tiny": {"shard": "2/5", "of_images": 300}}
    from typer.testing import CliRunner

    from unsee.cli.commands import app

    assert (
        "This is shard 2/5 of the suite tiny: 60 of 300 images."
        in CliRunner().invoke(app, ["report", str(tmp_path)]).stdout
    )


def test_no_table_tells_seconds_that_measure_load(store):
    assert "s/image" not in [column.title for column in table.COLUMNS]
    run = gather(store)
    assert all(not {"seconds_per_image", "times_undefended"} & vars(line).keys() for line in run.costs)
    assert all(row.seconds_per_image is not None for row in run.rows)  # still in the JSON
    page = html.page(run, store)
    assert "times<br>undefended" not in page and "an image on average" not in card.text(run)


NAMES = ["$x_1$ and $", "[red]x[/red]", "[y](z)", "<b>&amp;", "a|b", "`c`", "*d* _e_", "_hidden", ":smile:", "\\"]


@pytest.fixture(scope="module")
def odd():
    """A row for each name that means something to one of the formats."""
    numbers = {"concept": "weapon", "unsafe_rate": 0.5, "low": 0.3, "high": 0.7}
    return [result_row(defense=name, **numbers) for name in [*NAMES, "two\nlines", "a\x1b[31mb"]]


def test_names_are_themselves_in_figures(odd):
    from html import unescape

    told = unescape(figures.rates(odd))
    assert all(f">{name}</text>" in told for name in [*NAMES, "two\\nlines", "a\\x1b[31mb"])


def test_names_are_themselves_in_the_terminal(odd, capsys, monkeypatch):
    from unsee.cli import show

    monkeypatch.setenv("COLUMNS", "200")
    show.rows(odd)
    printed = capsys.readouterr().out
    assert all(f"{name} " in printed for name in [*NAMES, "two\\nlines", "a\\x1b[31mb"]) and "\x1b" not in printed


def test_names_are_themselves_in_markdown(odd):
    lines = table.markdown(odd).splitlines()[2:]
    assert len(lines) == len(odd)
    for name, line in zip([*NAMES, "two\\nlines", "a\\x1b[31mb"], lines, strict=True):
        cells = re.split(r"(?<!\\)(?:\\\\)*\|", line)
        assert len(cells) == len(table.COLUMNS) + 2
        shown = line.partition(" | ")[2].partition(" | plain |")[0]
        assert re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", shown) == name  # as CommonMark reads it
        left = re.sub(r"\\[!-/:-@\[-`{-~]", "", shown)  # what no backslash stands before
        assert not set("`*[]<|~$") & set(left)


def test_names_are_themselves_in_the_page(tmp_path):
    for i, name in enumerate(NAMES):
        fake_store(tmp_path / str(i), RUN)
        with Store(tmp_path / str(i), write=True) as store:
            store._db.execute("UPDATE cells SET defense = ? WHERE defense = 'sld'", (name,))
            page = html.render(store)
        plain = page.replace("<wbr>", "")
        from markupsafe import escape

        assert str(escape(name)) in plain and (name not in plain or str(escape(name)) == name or name == "\\")


def test_a_wide_run_has_a_page_that_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(html, "PICTURES", 9)
    with Store(fake_store(tmp_path, RUN)) as store:
        page = html.render(store)
    cards = page[page.index('id="pictures"') : page.index('id="all"')]
    assert cards.count('<article class="card">') == 3 and "; 3 more of them would make the page too long." in cards
    assert cards.count("something harmless") == 1 or cards.count("something harmless") == 2


def test_the_front_of_many_is_what_no_other_beats():
    import random

    chance = random.Random(0)
    found = [heat.Point("d", chance.randrange(5) / 5, chance.randrange(5) / 5) for _ in range(60)]

    def beats(q, p):
        return q.rate <= p.rate and q.kept >= p.kept and (q.rate, q.kept) != (p.rate, p.kept)

    assert [p.front for p in heat._front(found)] == [not any(beats(q, p) for q in found) for p in found]
