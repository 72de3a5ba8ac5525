"""The commands. They parse and call; everything heavy is imported inside."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Make a text-to-image pipeline unable to show a concept, and prove it.",
)


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False) -> None:
    if version:
        from .. import __version__

        print(__version__)
        raise typer.Exit


def _target(out: Path) -> Path:
    """``--out``, before anything is opened or written."""
    from ..files import target

    return target(out)


def _explained(what: str) -> Any:
    """Makes of a command's first argument what ``--help-settings`` explains, and leaves."""

    def callback(context: typer.Context, value: Any) -> Any:
        if context.params.get("explain"):
            from . import settings, show

            found = settings.rows(what, str(value or ""))
            _print({"settings": found}) if context.params.get("as_json") else show.settings(found)
            raise typer.Exit
        if value is None:
            raise typer.BadParameter("none is given")
        return value

    return callback


def _number(value: float | None) -> float | None:
    """NaN is in no range, which ``min`` and ``max`` do not see."""
    if value is not None and value != value:
        raise typer.BadParameter("nan is not a number")
    return value


MOST_SEED = 2**63 - 1  # of a generator
Json = Annotated[bool, typer.Option("--json", is_eager=True, help="Print one JSON object instead of tables.")]
Explain = Annotated[
    bool,
    typer.Option("--help-settings", is_eager=True, help="List what can be set, with types, defaults and meanings."),
]
Steps = Annotated[int, typer.Option(min=1, max=1000, help="Denoising steps.")]
Guidance = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=100,
        callback=_number,
        help="Classifier-free guidance, FLUX's true one [default: the model's].",
    ),
]
Model = Annotated[str, typer.Option(help="picto, a diffusers folder, a hub id, or tiny:sd1.")]
Device = Annotated[str, typer.Option(help="Where the model runs: cpu, cuda, cuda:1, mps.")]
Only = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY=VALUE", help="Run a part: concept, defense, attack, prompts or split. Repeatable."),
]
Seed = Annotated[int | None, typer.Option(min=0, max=MOST_SEED, help="Use this seed instead of the suite's.")]
BatchSize = Annotated[
    int | None, typer.Option(min=1, max=100_000, help="Images drawn at once; instead of the suite's.")
]

Workers = Annotated[int, typer.Option(min=1, max=1024, help="Processes that draw, each with a model of its own.")]
Threads = Annotated[
    int, typer.Option(min=1, max=1024, help="CPU threads of each; another number may change last bits.")
]


@app.command()
def demo(
    out: Annotated[Path, typer.Option(callback=_target, help="Folder of the run; it resumes.")] = Path("runs/demo"),
    seed: Seed = None,
    as_json: Json = False,
) -> None:
    """Run the whole story on the embedded model.

    Draw, defend, judge, report: a few minutes on a laptop CPU.
    """
    workers = min(os.cpu_count() or 1, 4)  # the embedded model is small
    _bench("demo", out, [], seed, None, "cpu", workers, as_json)


@app.command()
def fit(
    method: Annotated[
        str,
        typer.Argument(
            is_eager=True, callback=_explained("defense"), help="What to fit, for example saferedir, duo, ine, uce."
        ),
    ],
    concept: Annotated[
        list[str], typer.Option(help="What is to be unseen: a shipped name or a TOML file. Repeatable.")
    ],
    out: Annotated[str, typer.Option(help="Folder of the defense; {concept} in it stands for the concept's name.")],
    model: Model = "picto",
    defense: Annotated[
        list[str] | None, typer.Option(help="A saved folder that it will stand behind. Repeatable, in order.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting of the method. Repeatable.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=MOST_SEED, help="Of data and training.")] = 0,
    device: Device = "cpu",
    explain: Explain = False,
    as_json: Json = False,
) -> None:
    """Train or compute a defense for a concept.

    Stopped and started again, it goes on in OUT.work, which holds its data and checkpoints.
    """
    from . import fitting, show

    with show.progress("opening") as progress:
        lines = fitting.fit(method, model, concept, out, defense or [], settings or [], seed, device, progress)
    if as_json:
        return _print({"defenses": lines})
    for line in lines:
        path, told = show.escape(str(line["path"])), show.escape(f"{method} for {line['concept']}")
        show.say(f"{path}  [dim]{told}[/dim]")
        show.record(line["record"])


@app.command()
def generate(
    prompt: Annotated[list[str], typer.Option(help="What to draw. Repeatable.")],
    model: Model = "picto",
    defense: Annotated[
        list[str] | None,
        typer.Option(help="A saved folder, METHOD, or METHOD:key=value,… (with --concept). Repeatable: a stack."),
    ] = None,
    concept: Annotated[str | None, typer.Option(help="What is to be unseen: a shipped name or a TOML file.")] = None,
    out: Annotated[Path, typer.Option(callback=_target, help="A .png file (one prompt) or a folder.")] = Path(
        "runs/generate"
    ),
    seed: Annotated[
        int, typer.Option(min=0, max=MOST_SEED, help="Of the first prompt; the next has the next seed.")
    ] = 0,
    steps: Steps = 25,
    guidance: Guidance = None,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Draw prompts, undefended or under a stack of defenses."""
    from . import drawing, show

    with show.progress("drawing"):
        lines = drawing.generate(prompt, model, defense or [], concept, out, seed, steps, guidance, device)
    if as_json:
        return _print({"images": lines})
    for line in lines:
        told = show.escape(f"{line['seconds']:.2f} s, seed {line['seed']}, {line['defense']}")
        show.say(f"{show.escape(str(line['path']))}  [dim]{told}[/dim]")
        if line["fault"]:
            show.say(f"  [yellow]no picture: {show.escape(line['fault'])}[/yellow]")


@app.command()
def attack(
    method: Annotated[
        str,
        typer.Argument(
            is_eager=True,
            callback=_explained("attack"),
            help="How to attack, for example ring-a-bell, unlearn-diff, replay.",
        ),
    ],
    concept: Annotated[str, typer.Option(help="What is to be unseen: a shipped name or a TOML file.")],
    out: Annotated[
        Path, typer.Option(callback=_target, help="Folder of the run; it resumes. Prompts are in its attacks folder.")
    ],
    model: Model = "picto",
    defense: Annotated[
        list[str] | None, typer.Option(help="A saved folder, METHOD, or METHOD:key=value,…. Repeatable: a stack.")
    ] = None,
    n: Annotated[int, typer.Option("--n", min=1, max=1_000_000, help="Prompts to attack.")] = 50,
    kind: Annotated[str, typer.Option(help="Which prompts: plain or synonym.")] = "plain",
    split: Annotated[str, typer.Option(help="Of which words: held-out, or train to fit a defense on.")] = "held-out",
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting of the attack. Repeatable.")
    ] = None,
    judge: Annotated[str | None, typer.Option(help="Who judges the images [default: the concept's].")] = None,
    steps: Steps = 25,
    guidance: Guidance = None,
    only_find: Annotated[bool, typer.Option("--only-find", help="Keep the prompts; draw and judge nothing.")] = False,
    seed: Annotated[int, typer.Option(min=0, max=MOST_SEED, help="Of prompts, search and images.")] = 0,
    device: Device = "cpu",
    explain: Explain = False,
    as_json: Json = False,
) -> None:
    """Attack a stack of defenses, then draw and judge what the attack found.

    Shown beside it: the same prompts without the attack, and the model without the defenses.
    """
    from . import attacking, show

    scale = attacking.guidance_of(model, guidance)
    asked = {"kind": kind, "split": split, "n": n}
    suite = attacking.suite(method, model, defense or [], concept, asked, settings or [], seed, judge, steps, scale)
    if not only_find:
        return _run(suite, out, [], None, device, 1, as_json)
    with show.progress("opening") as progress:
        found = attacking.only_find(suite, out, device, progress)
    if as_json:
        return _print({"prompts": found})
    for line in found:
        show.plain(f"{line['source']} → {line['prompt']}")


@app.command()
def erase(
    concept: Annotated[str, typer.Option(help="What is to be unseen: a shipped name or a TOML file.")],
    out: Annotated[
        Path, typer.Option(callback=_target, help="Folder of the winner; OUT.work holds the rest, and it resumes.")
    ],
    model: Model = "picto",
    budget: Annotated[str, typer.Option(help="Time for all of it: 90s, 60m, 1h30m, or none.")] = "60m",
    floor: Annotated[
        float,
        typer.Option(
            min=0, max=1, callback=_number, help="Least preservation of benign pictures, 0 to 1; 0 for no floor."
        ),
    ] = 0.92,
    attacks: Annotated[
        list[str] | None,
        typer.Option(help="standard, METHOD, or METHOD:key=value,…; instead of the file's. Repeatable."),
    ] = None,
    candidates: Annotated[
        Path | None, typer.Option(help="A TOML file of stacks to try [default: six that ship].")
    ] = None,
    choose: Annotated[
        int | None, typer.Option(min=1, max=1_000_000, help="Prompts of each kind to choose by [default: 10].")
    ] = None,
    prove: Annotated[
        int | None, typer.Option(min=1, max=1_000_000, help="Held-out prompts of each kind [default: 24].")
    ] = None,
    judge: Annotated[str | None, typer.Option(help="Who judges the images [default: the concept's].")] = None,
    steps: Steps = 25,
    guidance: Guidance = None,
    seed: Annotated[int, typer.Option(min=0, max=MOST_SEED, help="Of prompts, attacks and images.")] = 0,
    device: Device = "cpu",
    workers: Workers = 1,
    as_json: Json = False,
) -> None:
    """Find the best defense for a concept, and prove it.

    Fits the candidates that the budget allows, attacks them on train prompts, picks the one that withstands its worst
    attack best among those above the floor, proves it on held-out prompts, and saves it as one folder that --defense
    takes. Exit code 1 if no candidate is good enough.
    """
    from . import erasing, show

    task = erasing.task(concept, out, model, budget, floor, attacks, candidates, choose, prove, judge, steps, guidance,
                        seed, device, workers)  # fmt: skip
    with show.progress("opening") as progress:
        found = erasing.run(task, progress)
    if as_json:
        _print(found)
    else:
        show.erased(found)
    if not found.winner:
        raise typer.Exit(1)


@app.command()
def bench(
    out: Annotated[Path, typer.Option(callback=_target, help="Folder of the run; it resumes.")],
    suite: Annotated[
        str | None,
        typer.Argument(
            is_eager=True, callback=_explained("suite"), help="A suite that ships, as first, or a TOML file of yours."
        ),
    ] = None,
    only: Only = None,
    seed: Seed = None,
    batch_size: BatchSize = None,
    device: Device = "cpu",
    workers: Workers = 1,
    threads: Threads = 1,
    engine: Annotated[
        str, typer.Option(help="Where images are drawn: local (processes) or ray (a cluster).")
    ] = "local",
    address: Annotated[str, typer.Option(help="Of the Ray cluster, HOST:PORT [default: the one here].")] = "",
    shard: Annotated[str, typer.Option(metavar="I/N", help="Run the I-th of N parts; see unsee merge.")] = "",
    explain: Explain = False,
    as_json: Json = False,
) -> None:
    """Run a suite and write its report.

    What is not fitted yet is fitted first. A run that was stopped goes on where it was.
    The rows do not depend on batch size, workers, shards or engine.
    """
    how = {"threads": threads, "engine": engine, "address": address, "shard": shard}
    _bench(suite or "", out, only or [], seed, batch_size, device, workers, as_json, **how)


@app.command()
def merge(
    shards: Annotated[list[Path], typer.Argument(help="The folders of all shards of a suite.")],
    out: Annotated[Path, typer.Option(callback=_target, help="Folder of the whole run.")],
    as_json: Json = False,
) -> None:
    """Bring the shards of a suite together and write the report.

    Refused: shards of another suite, model, judge, defense or version, and shards that are missing or not finished.
    """
    from ..bench.merge import merge as together
    from ..bench.store import Store

    together(shards, out)
    with Store(out) as store:
        _tell(store, as_json)


@app.command()
def probe(
    concept: Annotated[str, typer.Option(help="A shipped name or a TOML file.")],
    model: Model = "picto",
    defense: Annotated[list[str] | None, typer.Option(help="What makes the host: a saved folder. Repeatable.")] = None,
    ine: Annotated[str | None, typer.Option(help="A fitted INE, to compare its embedding with the words.")] = None,
    n: Annotated[int, typer.Option(min=2, max=100_000, help="Held-out prompts of the concept.")] = 16,
    seed: Annotated[int, typer.Option(min=0, max=MOST_SEED, help="Of prompts and images.")] = 0,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Measure how much grip a negative has on a model.

    r = |e_n - e_u| / |e_p - e_u| and the cosine of the two, for the concept's words and for an embedding, on the model
    and on the host.
    """
    from . import fitting, show

    with show.progress("probing"):
        found = fitting.probe(concept, model, defense or [], ine, n, seed, device)
    if as_json:
        return _print({"rows": found})
    show.grips(found)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="The folder of a run.")],
    out: Annotated[Path | None, typer.Option(help="Folder of the pages [default: RUN].")] = None,
    as_json: Json = False,
) -> None:
    """Write the report of a run again.

    RUN/report.html is one file and needs no network; the table is printed too, all that there is where RUN is read-only
    and no --out is given.
    """
    from ..bench.store import Store
    from ..errors import Unwritable
    from ..writing import check_place

    pages = True
    try:
        check_place(out or run)
    except Unwritable as error:
        if out is not None:
            raise
        pages = False
        warnings.warn(f"no pages are written: {error}; or give --out FOLDER", stacklevel=1)
    with Store(run) as store:
        _tell(store, as_json, out=out, pages=pages)


@app.command()
def judge(
    run: Annotated[
        Path,
        typer.Argument(
            is_eager=True, callback=_explained("judge"), help="The folder of a run; with --help-settings, a judge."
        ),
    ],
    judges: Annotated[
        list[str] | None, typer.Argument(help="NAME or NAME:key=value,…, for example clip:model=picto nudenet.")
    ] = None,
    explain: Explain = False,
    as_json: Json = False,
) -> None:
    """Show the images of a run to other judges, and tell how far all judges agree.

    Nothing is drawn, and the suite's own verdicts stay. Stopped and started again, it goes on where it was.
    """
    from ..settings import a_judge
    from . import show

    for name in judges or []:
        a_judge(name, also=())  # all of them, before the first one works
    from ..bench.judging import agreement_table, judge_again

    with show.progress("opening") as progress:
        judged = {name: judge_again(run, name, progress=progress) for name in judges or []}
    table = agreement_table(run)
    if as_json:
        return _print({"judged": judged, "agreement": table})
    show.agreements(table)


@app.command("list")
def listed(
    kind: Annotated[
        str,
        typer.Argument(help="guards, edits, attacks, judges, metrics, backbones, concepts or suites [default: all]."),
    ] = "",
    as_json: Json = False,
) -> None:
    """Show what there is by name: ours, and what installed packages add."""
    from . import listing, show

    found = listing.rows(kind)
    if as_json:
        return _print({"names": found})
    show.names(found)


@app.command()
def selftest(
    names: Annotated[
        list[str] | None, typer.Argument(help="Methods or families to try alone, for example those of your package.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Try every method on tiny random pipelines, those of installed packages too.

    On the CPU, without any download, in a few minutes.
    """
    from ..bench import selftest as checks
    from . import show

    with show.progress("checks"):
        results = checks.run(names=names or [])
    if as_json:
        _print({"checks": results})
    else:
        show.checks(results)
    if not all(check.ok for check in results):
        raise typer.Exit(1)


def _bench(
    name: str,
    out: Path,
    only: list[str],
    seed: int | None,
    batch_size: int | None,
    device: str,
    workers: int,
    as_json: bool,
    **how: Any,
) -> None:
    from ..suites.suite import SuiteSpec

    suite = SuiteSpec.load(name)
    if seed is not None:
        suite = suite.model_copy(update={"seed": seed})
    _run(suite, out, only, batch_size, device, workers, as_json, **how)


def _run(
    suite: Any, out: Path, only: list[str], batch_size: int | None, device: str, workers: int, as_json: bool, **how: Any
) -> None:
    """``how`` goes to :func:`unsee.bench.run.run`: threads, engine, address, shard as text."""
    from ..bench.shard import Shard
    from . import show

    suite.groups(only)  # a misspelled --only fails before torch is imported
    how["shard"] = Shard.parse(how.get("shard", ""))
    with show.progress("opening") as progress:
        from ..bench.run import run
        from ..bench.store import Store

        run(suite, out, only=only, batch_size=batch_size, device=device, workers=workers, progress=progress, **how)
    with Store(out) as store:
        _tell(store, as_json, suite.name)


def _tell(store: Any, as_json: bool, suite: str = "", *, out: Path | None = None, pages: bool = True) -> None:
    """Write the report, then print it as JSON or as a table with its headline; of one ``suite`` only, where named.

    The pages lie in ``out``, else in the run's folder, if any are wanted.
    Several suites may share a folder: what they have in common is drawn once.
    """
    from .. import report
    from ..report.collect import gather
    from ..report.headline import headline
    from . import show

    run = gather(store)
    elsewhere = {} if out is None else {"folder": out}
    path = report.write(store, run, **elsewhere) if pages else None
    found = [row for row in run.rows if suite in ("", row.suite)]
    claims = [row for row in run.claims if suite in ("", row.suite)]
    if as_json:
        suites = {name: facts for name, facts in run.suites.items() if suite in ("", name)}
        listed = {"rows": found, "suites": suites, "report": str(path or "")}
        spent = [line for line in run.attack_costs if suite in ("", line.suite)]
        return _print(listed | {k: v for k, v in (("claims", claims), ("attacks", spent)) if v})
    show.rows(found)
    told = headline([r for r in run.records if suite in ("", r.suite)], found)
    show.claims(claims)
    part = f"\n\nThis is {run.part}." if run.part else ""
    show.plain(f"\n{told}{part}")
    if path:
        show.say(f"\nreport: [bold]{show.escape(str(path))}[/bold]")


def _print(value: object) -> None:
    from ..types import as_json

    print(json.dumps(value, indent=2, default=as_json))
