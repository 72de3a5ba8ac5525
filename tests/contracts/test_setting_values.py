"""Every setting of every registered method: it has a sentence, its default is sound, and a wrong value is one line,
from Python, from ``--set key=value`` and from a TOML table, before anything is drawn or written."""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import pytest

from unsee import concepts
from unsee.errors import UnknownName, UserError
from unsee.registry import ATTACKS, DEFENSES, JUDGES, resolve
from unsee.settings import Setting, check, declared, keys, named, parse
from unsee.suites.attacks import AttackSpec
from unsee.suites.stacks import DefenseSpec, StackSpec
from unsee.suites.suite import PromptSet, SuiteSpec

WEAPON = concepts.load("weapon")
ALL = [("defense", n) for n in DEFENSES] + [("attack", n) for n in ATTACKS] + [("judge", n) for n in JUDGES]
TABLES = {"defense": DEFENSES, "attack": ATTACKS, "judge": JUDGES}
BY_CODE = {"rewriter", "clip", "detector", "scorer", "ask"}  # what only Python can give
BY_FIT = {"concept"}  # what fitting fills in
NEEDED = {"replay": {"folder": "x"}}
FAR = (math.nan, math.inf, -math.inf, 10**30, -(10**30), 10**400)

each = pytest.mark.parametrize(("what", "name"), ALL, ids=lambda v: v)


def kind_of(what: str, name: str) -> Any:
    return resolve(what, TABLES[what], name)


def settings_of(what: str, name: str) -> dict[str, Setting]:
    kind = kind_of(what, name)
    return kind.takes() if what == "defense" else dict(declared(kind))


def wrong(one: Setting) -> Iterator[Any]:
    """Values of the wrong type, and numbers that are none or far off. What a text means is known to its type alone."""
    words = one.expected
    yield from () if one.default is None else (None,)
    yield b"x"
    yield object()
    yield from (() if "table" in words else ({"a": 1},))
    yield from (() if "list" in words else ([1], ["a"], []))
    if "number" in words:
        yield from FAR
    if (
        "text" not in words
        and "one of" not in words
        and "list" not in words
        and "judge" not in words
        and "device" not in words
    ):
        yield from ("", "abc", "nan", "1")
    yield from (() if "true or false" in words else (True, False))
    yield from ((0, 1, 0.5) if words == "true or false" else ())
    yield from ((0.5, 2.5) if words.startswith("a whole") else ())
    if "text" in words or "one of" in words or "judge" in words:
        yield from (() if "number" in words else (5, 0.5))
        yield "\0"
    if "device" in words:
        yield from ("", "cuda:one", "c p u", "\0", "cpu,cuda", 5)
    if "not empty" in words:
        yield from ("", "  ")
    if "one of" in words:
        yield from ("", "nosuch", "STRONG")
    if "judge" in words:
        yield from ("nosuch", "picto:treshold=1", "picto:threshold=2", "picto:threshold")
    if "list" in words:
        yield from ({"a"}, [1.5], iter(["a"]), [None])


def written(value: Any) -> str | None:
    """A value as the command line writes it; None for what it cannot."""
    if isinstance(value, (bool, int, float)) and abs(value) < 10**40:
        return str(value).lower()
    return value if isinstance(value, str) else None


def refused(*doors: Any) -> int:
    for door in doors:
        with pytest.raises(UserError) as caught:
            door()
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
    return len(doors)


def from_python(what: str, name: str, given: dict[str, Any]) -> Any:
    kind = kind_of(what, name)
    if what == "defense":
        return kind.fit(None, WEAPON, work="nowhere", **given)  # there is no pipeline: it must not come so far
    return kind(**{**NEEDED.get(name, {}), **given})


def from_toml(what: str, name: str, given: dict[str, Any]) -> Any:
    if what == "defense":
        return StackSpec.parse([{"method": name, **given}]).check(WEAPON)
    return AttackSpec.parse({"method": name, **NEEDED.get(name, {}), **given}).check()


def from_text(what: str, name: str, text: str) -> Any:
    kind = kind_of(what, name)
    if what == "judge":
        return named("judge", JUDGES, f"{name}:{text}")
    if what == "defense":
        return kind.check_settings(parse([text], kind.takes()))
    return kind.of(NEEDED.get(name, {}) | parse([text], declared(kind)))


@each
def test_every_setting_has_a_sentence_and_a_sound_default(what, name):
    kind, found = kind_of(what, name), settings_of(what, name)
    taken = set(inspect.signature(kind).parameters) - {"given", "more"} - (BY_CODE if what != "defense" else BY_FIT)
    if what == "defense" and kind.Training:
        taken |= {f.name for f in fields(kind.Training)}
    assert taken == set(found)
    for one in found.values():
        assert one.sentence[:1].strip() and one.sentence.endswith("."), one.name
        assert one.expected
        if one.default is not inspect.Parameter.empty:
            one.check(name, one.default)


@each
def test_what_is_shipped_as_settings_is_sound(what, name):
    kind, found = kind_of(what, name), settings_of(what, name)
    for given in (getattr(kind, "quick", {}), getattr(kind, "published", {}), *getattr(kind, "presets", {}).values()):
        check(given, found, name)


@each
def test_a_wrong_value_is_one_line(what, name):
    tried = 0
    for key, one in settings_of(what, name).items():
        for value in wrong(one):
            doors = [lambda: from_python(what, name, {key: value})]  # noqa: B023
            if what != "judge" and value is not None:
                doors.append(lambda: from_toml(what, name, {key: value}))  # noqa: B023
            tried += refused(*doors)
            text = written(value)
            if text is not None and not one.choices and not isinstance(value, str):
                number = any(kind in one.expected for kind in ("text", "judge", "device"))  # is a text, once written
                tried += 0 if number else refused(lambda: from_text(what, name, f"{key}={text}"))  # noqa: B023
    assert tried or not settings_of(what, name)


@each
def test_an_unknown_setting_says_the_nearest(what, name):
    for key in itertools.islice(settings_of(what, name), 3):
        near = key[:-1] + "_" + key[-1]
        doors = [lambda: from_python(what, name, {near: 1}), lambda: from_text(what, name, f"{near}=1")]  # noqa: B023
        doors += [lambda: from_toml(what, name, {near: 1})] if what != "judge" else []  # noqa: B023
        for door in doors:
            with pytest.raises(UnknownName, match="did you mean"):
                door()


@each
def test_its_limits_are_taken_and_what_is_beyond_is_not(what, name):
    for one in settings_of(what, name).values():
        bounds = [m for part in getattr(one.type, "__metadata__", ()) for m in getattr(part, "metadata", [part])]
        for m in bounds:
            for limit, beyond in ((getattr(m, "ge", None), -1), (getattr(m, "le", None), 1)):
                if limit is not None and "judge" not in one.expected:
                    one.check(name, type(one.default)(limit) if isinstance(one.default, float) else limit)
                    refused(lambda: one.check(name, limit + beyond * max(1, abs(limit))))  # noqa: B023


def test_the_keys_of_a_suite():
    for model in (SuiteSpec, PromptSet):
        for one in keys(model).values():
            assert one.sentence.endswith("."), one.name
            assert one.expected, one.name


@pytest.mark.parametrize("text", ["", "=1", "a", "a.=1", ".a=1", "a..b=1", "a=1 a", "\0"])
def test_what_is_no_key_and_value(text):
    if text == "":
        assert parse([text]) == {}
    elif text == "a=1 a":
        assert parse([text]) == {"a": "1 a"}
    else:
        refused(lambda: parse([text]))


def test_the_one_parser():
    assert parse(["scale=3", "preset=strong", "x=true", "y=[1]", 'z="5"', "w=5 # five"]) == {
        "scale": 3, "preset": "strong", "x": True, "y": [1], "z": "5", "w": "5 # five",
    }  # fmt: skip
    assert parse(["a=" + "[" * 3000]) == {"a": "[" * 3000} and parse(["a=" + "9" * 6000])["a"] == "9" * 6000
    refused(lambda: parse(["a=1", "a=2"]), lambda: parse(["a=1", "a.b=2"]), lambda: parse(["a.b=1", "a=2"]))
    assert DefenseSpec.parse("sld:preset=strong,warmup=0").settings == {"preset": "strong", "warmup": 0}
    assert AttackSpec.parse("mma:steps=20").settings == {"steps": 20}
    assert named("judge", JUDGES, "vlm:model=7,url=http://127.0.0.1:1")[1]["model"] == "7"  # a text is a text
