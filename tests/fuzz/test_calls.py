"""What is typed: settings of every method, and arguments of every command. One line, exit code 2, nothing outside."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from fuzzing import SEEN, files_in, fuzz, told
from hypothesis import strategies as st
from mutations import HOSTILE, texts

from unsee import concepts, judges, registry
from unsee.cli import main
from unsee.errors import UserError
from unsee.sampling import machine as models
from unsee.settings import parse
from unsee.suites import attacks
from unsee.suites import stacks as defenses

METHODS = sorted(registry.DEFENSES)
VALUES = [
    *HOSTILE,
    "0",
    "1",
    "-1",
    "0.5",
    "nan",
    "inf",
    "-inf",
    "1e400",
    "true",
    "[]",
    "{}",
    "[1, 2]",
    "1979-05-27",
    "3.0",
]
values = st.sampled_from(VALUES) | texts


def settings_of(kind: Any) -> list[str]:
    """The names of what a method can be told."""
    import dataclasses
    import inspect

    if dataclasses.is_dataclass(kind):
        more = getattr(kind, "Training", None)
        return [f.name for c in (kind, more) if c for f in dataclasses.fields(c) if f.init]
    return list(inspect.signature(kind).parameters)


@fuzz(50)
def test_settings_of_defenses(data: Any) -> None:
    method = data.draw(st.sampled_from(METHODS))
    known = settings_of(registry.resolve("m", registry.DEFENSES, method))
    key = data.draw(st.sampled_from(known) | texts)
    value = data.draw(values)

    def checked() -> None:
        stack = defenses.StackSpec.parse({"method": method, **parse([f"{key}={value}"])})
        stack.check(concepts.load("weapon"))

    told("settings of defenses", checked)


@fuzz(40)
def test_settings_of_attacks(data: Any) -> None:
    method = data.draw(st.sampled_from(sorted(registry.ATTACKS)))
    known = settings_of(registry.resolve("m", registry.ATTACKS, method))
    key, value = data.draw(st.sampled_from(known) | texts), data.draw(values)
    call = f"{method}:{key}={value}"
    told("settings of attacks", lambda: attacks.AttackSpec.parse(call).check())


@fuzz(30)
def test_settings_of_judges(data: Any) -> None:
    method = data.draw(st.sampled_from(["picto", "clip", "vlm", "always.safe", "q16", "open-nsfw"]))
    known = settings_of(registry.resolve("m", registry.JUDGES, method)) or ["x"]
    key, value = data.draw(st.sampled_from(known) | texts), data.draw(values)
    told("settings of judges", lambda: judges.load(f"{method}:{key}={value}"))


# ---- the command line: everything before the model is opened ----

COMMANDS = {
    "demo": ["--out", "o/demo", "--seed", "1"],
    "fit": [
        "uce",
        "--concept",
        "weapon",
        "--out",
        "o/{concept}",
        "--model",
        "picto",
        "--set",
        "texts=6",
        "--seed",
        "0",
    ],
    "generate": [
        "--prompt",
        "a dagger",
        "--defense",
        "sld:preset=strong",
        "--concept",
        "weapon",
        "--out",
        "o/x.png",
        "--steps",
        "2",
        "--guidance",
        "4",
    ],
    "attack": [
        "paraphrase",
        "--concept",
        "weapon",
        "--out",
        "o/a",
        "--defense",
        "sld",
        "--n",
        "3",
        "--set",
        "at_once=2",
    ],
    "erase": ["--concept", "weapon", "--out", "o/e", "--budget", "60m", "--floor", "0.9", "--attacks", "mma"],
    "bench": ["s.toml", "--out", "o/b", "--only", "defense=none", "--shard", "1/2", "--workers", "1"],
    "merge": ["r1", "r2", "--out", "o/m"],
    "probe": ["--concept", "weapon", "--n", "4"],
    "report": ["r1"],
    "judge": ["r1", "clip:model=picto", "always.safe"],
}
SUITE = (
    'name="s"\nmodel="picto"\nconcepts=["weapon"]\ndefenses=["none"]\njudge="picto"\n[[prompts]]\nkind="plain"\nn=2\n'
)

OPTIONS = ["--seed", "--steps", "--n", "--set", "--device", "--judge", "--json", "--zzz", "--model"]


class Reached(UserError):
    """The command got as far as the model: its arguments were sound."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Any:
    place, before = tmp_path_factory.mktemp("calls") / "deep" / "home", os.getcwd()
    place.mkdir(parents=True)
    (place / "s.toml").write_text(SUITE)
    os.chdir(place)
    with pytest.MonkeyPatch.context() as patch:

        def reached(*_: Any, **__: Any) -> None:
            raise Reached("a model", "one", "open it")

        patch.setattr(models, "open_model", reached)
        patch.setattr("huggingface_hub.snapshot_download", reached)
        yield place
    os.chdir(before)


@fuzz(90)
def test_commands(home: Path, data: Any) -> None:
    command = data.draw(st.sampled_from(sorted(COMMANDS)))
    arguments = list(COMMANDS[command])
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(arguments) - 1))
        how = data.draw(st.sampled_from(["replace", "replace", "replace", "remove", "insert", "option", "twice"]))
        option = data.draw(
            st.sampled_from(["--seed", "--steps", "--n", "--set", "--device", "--judge", "--json", "--zzz", "--model"])
        )
        if how == "replace":
            arguments[place] = data.draw(values)
        elif how == "remove" and len(arguments) > 1:
            del arguments[place]
        elif how == "twice":
            arguments.insert(place, arguments[place])
        elif how == "option":
            arguments += [option, data.draw(values)]
        else:
            arguments.insert(place, data.draw(values))
    above = home.parents[1]
    before = files_in(above)
    code = main([command, *arguments])
    SEEN["commands", "refused" if code else "accepted"] += 1
    assert code in (0, 1, 2), (command, arguments)
    made = [name for name in files_in(above) if name not in before]
    for name in made:
        assert out_of(home, arguments) and name.startswith(out_of(home, arguments)), (command, arguments, name)


def out_of(home: Path, arguments: list[str]) -> str:
    """Where the arguments ask to write to."""
    for place, argument in enumerate(arguments):
        if argument == "--out" and place + 1 < len(arguments):
            return os.path.normpath(home / arguments[place + 1].replace("{concept}", "weapon"))
    return str(home)
