"""What is done to valid specimens: to their structure, to their text, to their bytes. Drawn by hypothesis."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

HOSTILE = [
    "", " ", ".", "..", "../../EVIL", "/abs/x", "a/b", "{concept}", "{x:>999999999}", "{x.__class__}", "{", "n" * 300,
    "a\0b", "a\nb", "\u2028", "\ufeff", "ä\u0301", "𝔘", "\x1b[31m", "<b>", "$HOME", "[link=x]", "%s", "nan", "null",
    "none", "standard", "true", "-1", "1e999", "9" * 400, "x" * 5000, "@sld", "picto/../x", "a:b", "file:///etc/passwd",
    "http://x", "~", "~root", "\\\\host\\share", "C:\\x", "\r\n", "'", '"', "1/0", "-0", "0x10", "1_000", "é" * 200,
]  # fmt: skip
NUMBERS = [
    0, -1, 1, 2**31, 2**63, -(2**63) - 1, 10**30, 0.5, -0.0, 1e308, -1e308, 1e-320, math.nan, math.inf, -math.inf,
]  # fmt: skip
texts = st.sampled_from(HOSTILE) | st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
numbers = st.sampled_from(NUMBERS) | st.integers(-1000, 1000) | st.floats()
scalars = st.none() | st.booleans() | numbers | texts
junk = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=4,
)


def paths(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The places of a nested value, its own among them."""
    found = [at]
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in items:
        found += paths(one, (*at, key))
    return found


@st.composite
def mutated(draw: Callable[..., Any], specimen: Any, most: int = 2) -> Any:
    """``specimen`` with up to ``most`` changes of its structure."""
    value = copy.deepcopy(specimen)
    for _ in range(draw(st.integers(1, most))):
        places = [place for place in paths(value) if place]
        if not places:
            return draw(junk)
        place = draw(st.sampled_from(places))
        home = value
        for key in place[:-1]:
            home = home[key]
        _change(draw, home, place[-1])
    return value


def _change(draw: Callable[..., Any], home: Any, key: Any) -> None:
    how = draw(st.sampled_from(["replace", "replace", "text", "number", "remove", "add", "wrap", "twice", "deep"]))
    old = home[key]
    if how in ("replace", "text", "number"):
        home[key] = draw({"replace": junk, "text": texts, "number": numbers}[how])
    elif how == "remove":
        del home[key]
    elif how == "wrap":
        home[key] = draw(st.sampled_from([[old], {"a": old}, [old, old], str(old)]))
    elif how == "deep":
        for _ in range(draw(st.sampled_from([3, 70, 400]))):
            old = [old]
        home[key] = old
    elif isinstance(home, dict):  # add, twice
        home[draw(texts)] = draw(junk) if how == "add" else old
    else:
        home.insert(draw(st.integers(0, len(home))), draw(junk) if how == "add" else old)


@st.composite
def spoiled(draw: Callable[..., Any], data: bytes) -> bytes:
    """Bytes with something done to them: bits, lengths, encodings; or other bytes altogether."""
    how = draw(
        st.sampled_from(["flip", "flip", "cut", "zero", "insert", "append", "double", "random", "utf-16", "bom"])
    )
    place = draw(st.integers(0, max(len(data) - 1, 0)))
    if how == "flip":
        made = bytearray(data)
        for at in draw(st.lists(st.integers(0, max(len(data) - 1, 0)), min_size=1, max_size=6)):
            if made:
                made[at] ^= 1 << draw(st.integers(0, 7))
        return bytes(made)
    if how == "cut":
        return data[:place]
    if how == "zero":
        return data[:place] + b"\0" * len(data[place : place + 64]) + data[place + 64 :]
    if how in ("insert", "append", "random"):
        more = draw(st.binary(min_size=1, max_size=64))
        return {"insert": data[:place] + more + data[place:], "append": data + more, "random": more}[how]
    if how == "utf-16":
        return data.decode("latin-1").encode("utf-16")
    return b"\xef\xbb\xbf" + data if how == "bom" else data + data


@st.composite
def json_bytes(draw: Callable[..., Any], specimen: Any) -> bytes:
    """A JSON file of a mutated specimen; sometimes with a key twice, nested out of bounds, or spoiled."""
    data = json.dumps(draw(mutated(specimen))).encode()
    how = draw(st.sampled_from(["as it is"] * 8 + ["twice", "deep", "spoiled", "spoiled"]))
    if how == "twice" and data.startswith(b"{") and len(data) > 2:
        return b'{"format": 1, "format": 1, ' + data[1:]
    if how == "deep":
        return data.replace(b"null", b"[" * 10_000 + b"]" * 10_000).replace(b"true", b'{"a":' * 10_000)
    return draw(spoiled(data)) if how == "spoiled" else data


def toml(table: Any) -> str:
    """A nested value as TOML text; what TOML does not have becomes text that it refuses."""
    if not isinstance(table, dict):
        return _toml(table)
    return "".join(f"{json.dumps(str(key))} = {_toml(value)}\n" for key, value in table.items())


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(str(k))} = {_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


@st.composite
def toml_bytes(draw: Callable[..., Any], specimen: dict[str, Any]) -> bytes:
    """A TOML file of a mutated specimen; sometimes with its bytes spoiled."""
    data = toml(draw(mutated(specimen))).encode()
    how = draw(st.sampled_from(["as it is"] * 8 + ["spoiled", "dots", "twice"]))
    if how == "dots":
        return b"a" + b".a" * 10_000 + b" = 1\n" + data
    if how == "twice":
        return data + data
    return draw(spoiled(data)) if how == "spoiled" else data
