"""Settings: declared once, checked wherever they come from, shown by ``--help-settings``.

A method declares a setting as a field (a judge: as a keyword of its ``__init__``) with a type from here and a sentence:

    steps: Annotated[Count, Doc("Steps of training.")] = 100
    order: Annotated[str, Among("released", "paper"), Doc("Which formula.")] = "released"

Whatever derives from :class:`Checked` (guards, weight edits, trainings, attacks, judges) refuses a wrong value before
the object is there. ``--set key=value``, ``METHOD:key=value,…`` and TOML tables come through :func:`parse` and
:func:`check` to the same declarations. A value is looked at and never changed: what was given is what is recorded, and
what digests are made of.
"""

from __future__ import annotations

import collections.abc
import functools
import inspect
import sys
import types
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import Doc

from .errors import UnknownName, UserError
from .files import parse_toml
from .registry import JUDGES, resolve

__all__ = [
    "NONE", "Among", "Checked", "Choices", "Count", "Decay", "Device", "Doc", "FreeText", "Guidance", "Images",
    "Judged", "Length", "Number", "Rate", "Seed", "Setting", "Settings", "Share", "Spec", "Steps", "Table", "Texts",
    "Told", "Weight", "Whole", "Words", "a_judge", "check", "declared", "keys", "named", "named_in", "parse", "shown",
    "sound", "spec", "table",
]  # fmt: skip

Settings = dict[str, Any]  # of a method by name, as TOML, --set and Python give them
NONE = inspect.Parameter.empty  # no default: the setting must be given
MOST = 10**7  # of a count: whoever asks for more has mistyped
LONGEST = 10_000  # letters of a text
STRICT = ConfigDict(strict=True, arbitrary_types_allowed=True, allow_inf_nan=False)


# ---- types ----


@dataclass(frozen=True, init=False)
class Among:
    """A text that is one of ``choices``; a wrong one is told the nearest."""

    choices: tuple[str, ...]

    def __init__(self, *choices: str) -> None:
        object.__setattr__(self, "choices", choices)

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        listed = core_schema.literal_schema(list(self.choices))
        return core_schema.nullable_schema(listed) if types.NoneType in get_args(source) else listed


@dataclass(frozen=True)
class Told:
    """How a type that pydantic cannot put into words is described."""

    words: str


def _printable(text: str) -> str:
    """No NUL, and nothing that cannot be written as UTF-8."""
    if "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
        raise ValueError("a character that no file can hold")
    return text


def _said(text: str) -> str:
    if not text.strip():
        raise ValueError("no words")
    return text


def a_judge(text: str, also: tuple[str, ...] = ("",)) -> str:
    """``text``, if a registered judge with sound settings has it, or it is one of ``also``."""
    if text not in (*also, *JUDGES):  # without settings its module, which may be heavy, can wait
        named("judge", JUDGES, text)
    return text


Count = Annotated[int, Field(ge=1, le=MOST)]
Whole = Annotated[int, Field(ge=0, le=MOST)]  # 0 often is "none"
Images = Annotated[int, Field(ge=1, le=100_000)]  # drawn or held at once
Steps = Annotated[int, Field(ge=1, le=1000)]  # of a sampler; there are no more times than that
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Length = Annotated[int, Field(ge=1, le=1000)]  # of a text, in tokens or words
Share = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(gt=0, le=100)]  # of learning
Weight = Annotated[float, Field(ge=0, le=1e9)]  # of a term of a loss; 0 leaves it out
Decay = Annotated[float, Field(ge=0, le=1)]  # of weights, as AdamW has it
Number = Annotated[float, Field(ge=-1e6, le=1e6)]
Guidance = Annotated[float, Field(ge=0, le=100)]
FreeText = Annotated[str, Field(max_length=LONGEST), AfterValidator(_printable)]  # may be empty
Words = Annotated[FreeText, AfterValidator(_said), Told("a text that is not empty")]
Texts = Annotated[tuple[Words, ...], Told("a list of texts")]
Choices = Annotated[tuple[str, ...], Told("a list of texts")]
Table = Annotated[dict[str, Any], Told("a table")]
Device = Annotated[FreeText, Field(pattern=r"^[a-z]+(:\d+)?$"), Told("a device as cpu, cuda, cuda:1 or mps")]
Judged = Annotated[FreeText, AfterValidator(a_judge), Told("a judge as NAME or NAME:key=value,…")]


# ---- what a class declares ----


@dataclass(frozen=True)
class Setting:
    """One setting. ``default`` is ``NONE`` where it must be given."""

    name: str
    type: Any
    default: Any = NONE
    sentence: str = ""

    @property
    def expected(self) -> str:
        """Type and range in words: ``a number from 0 to 1``."""
        return " or ".join(dict.fromkeys(_described(self.type))) or _class_names(self.type)

    @property
    def choices(self) -> tuple[str, ...]:
        """What a text may be; empty where it is free."""
        return next((m.choices for part in _parts(self.type) for m in part[1] if isinstance(m, Among)), ())

    @functools.cached_property
    def adapter(self) -> TypeAdapter[Any]:
        model = isinstance(self.type, type) and issubclass(self.type, BaseModel)  # has its own config
        return TypeAdapter(self.type) if model else TypeAdapter(self.type, config=STRICT)

    def check(self, owner: str, value: Any) -> None:
        """Raises :class:`UserError` where ``value`` is not what it should be."""
        if self.takes(value):
            return
        if self.choices and isinstance(value, str):
            raise UnknownName(f"{self.name} of {owner}", value, self.choices)
        raise UserError(f"{self.name} of {owner} as {self.expected}", shown(value), self._advice(value))

    def takes(self, value: Any) -> bool:
        """Whether ``value`` is what it should be."""
        if not _described(self.type):
            return _instance(self.type, value)
        bases = {get_origin(base) or base for base, _ in _parts(self.type)}
        listed = isinstance(value, list) and tuple in bases and list not in bases  # TOML and JSON have lists alone
        try:
            found = self.adapter.validate_python(tuple(value) if listed else value)
        except ValidationError:
            return False
        return not isinstance(found, float) or isinstance(value, (int, float))  # no NumPy's, which JSON cannot hold

    def _advice(self, value: Any) -> str:
        if isinstance(value, (int, float)) and not self.choices and _only_text(self.type):
            return f"write it in quotes: {self.name}='\"{value}\"'"
        if self.default is NONE:
            return "set it so"
        return "leave it out" if self.default is None else f"leave it out for {shown(self.default)}"


class Checked:
    """Base of whatever is made of settings: a wrong one, or one that it does not have, is refused at once."""

    def __new__(cls, *given: Any, **more: Any) -> Self:
        kind: Any = cls
        known = _taken(kind)
        told = dict(zip(known, given, strict=False)) | more
        owner = str(getattr(cls, "name", cls.__name__))
        for key, value in told.items():
            if key in known:
                known[key].check(owner, value)
            elif not _open(cls):
                raise _unknown(owner, key, declared(cls))
        return super().__new__(cls)


def declared(kind: Any) -> Mapping[str, Setting]:
    """The settings of a class, by name, in order. What only code can give (a detector, a callable) is not among them.

    >>> from unsee.attacks.random_tokens import RandomTokens
    >>> declared(RandomTokens)["keep"].expected
    'true or false'
    """
    return {name: one for name, one in _taken(kind).items() if _described(one.type)}


@functools.cache
def _taken(kind: Any) -> dict[str, Setting]:
    """All that a class is made with, by name."""
    lineage = inspect.getmro(kind)
    if is_dataclass(kind):
        written = {n: (a, base) for base in reversed(lineage) for n, a in inspect.get_annotations(base).items()}
        found = {}
        for f in fields(kind):
            default = NONE if f.default is MISSING else f.default
            default = default if f.default_factory is MISSING else f.default_factory()
            annotation, base = written[f.name]
            if f.init:
                found[f.name] = _setting(f.name, annotation, vars(sys.modules[base.__module__]), default)
        return found
    scope = getattr(inspect.getattr_static(kind, "__init__"), "__globals__", {})
    named = [p for p in _parameters(kind) if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return {p.name: _setting(p.name, p.annotation, scope, p.default) for p in named}


def _open(kind: type[Any]) -> bool:
    """Whether it takes what it does not name."""
    return any(p.kind is p.VAR_KEYWORD for p in _parameters(kind))


def _parameters(kind: type[Any]) -> list[inspect.Parameter]:
    made_by = inspect.getattr_static(kind, "__init__")
    return [] if made_by is object.__init__ else list(inspect.signature(made_by).parameters.values())[1:]


def _setting(name: str, annotation: Any, scope: dict[str, Any], default: Any) -> Setting:
    resolved = _resolved(annotation, scope)
    docs = [m.documentation for m in getattr(resolved, "__metadata__", ()) if isinstance(m, Doc)]
    return Setting(name, resolved, default, docs[0] if docs else "")


def _resolved(annotation: Any, scope: dict[str, Any]) -> Any:
    """What an annotation means; ``Any`` where it has none, or its names exist for type checkers alone."""
    if not isinstance(annotation, str):
        return Any if annotation is inspect.Parameter.empty else annotation
    try:
        return eval(annotation, dict(scope))  # our own source, as typing.get_type_hints does
    except NameError:
        return Any


def keys(model: type[BaseModel]) -> dict[str, Setting]:
    """The keys of a table that pydantic reads, as settings."""
    found = {}
    for name, info in model.model_fields.items():
        kind: Any = info.annotation
        for limit in info.metadata:
            kind = Annotated[kind, limit]
        default = NONE if info.is_required() else info.get_default(call_default_factory=True)
        found[name] = Setting(name, kind, default, info.description or "")
    return found


# ---- checking ----


def check(settings: Mapping[str, Any], known: Mapping[str, Setting], owner: str, *, complete: bool = False) -> None:
    """Raises :class:`UserError` for a setting that ``known`` has not, or a wrong value; where ``complete``, for one
    that is missing too."""
    for key, value in settings.items():
        if key not in known:
            raise _unknown(owner, key, known)
        known[key].check(owner, value)
    for key, one in known.items():
        if complete and one.default is NONE and key not in settings:
            raise UserError(f"{key} of {owner}", "none", f"give it: {key}=… ({one.expected})")


def sound(type: Any, name: str, value: Any, owner: str) -> None:
    """Raises :class:`UserError` where one ``value`` is not of ``type``, for what is no field of a class."""
    Setting(name, type).check(owner, value)


def named(what: str, registered: Mapping[str, str], text: Any) -> tuple[type, dict[str, Any]]:
    """``NAME`` or ``NAME:key=value,…`` as the class that is registered and its settings, checked.

    Raises :class:`UserError` for an unknown name or setting, and for a wrong value. A value has no comma in it.
    """
    if not isinstance(text, str):
        raise UserError(f"a {what} as text", shown(text), "write NAME or NAME:key=value,…")
    kind = resolve(what, registered, named_in(text))
    told = spec(text, declared(kind))
    check(told.settings, declared(kind), f"the {what} {told.name}")
    return kind, told.settings


def _unknown(owner: str, key: str, known: Mapping[str, Setting]) -> UserError:
    if not known:
        return UserError(f"no settings for {owner}", shown(key), "leave it out")
    return UnknownName(f"setting of {owner}", key, known)


# ---- from text ----


@dataclass(frozen=True)
class Spec:
    """What ``NAME`` or ``NAME:key=value,…`` says, not checked yet."""

    name: str
    settings: dict[str, Any]


def spec(text: str, known: Mapping[str, Setting] = MappingProxyType({})) -> Spec:
    """``text`` in its parts; a value has no comma in it. ``known`` and errors as in :func:`parse`.

    >>> spec("sld:preset=strong,warmup=0")
    Spec(name='sld', settings={'preset': 'strong', 'warmup': 0})
    """
    name, _, rest = text.partition(":")
    return Spec(name, parse(rest.split(","), known))


def named_in(text: str) -> str:
    """The name alone, whatever its settings are.

    >>> named_in("sld:preset=strong")
    'sld'
    """
    return text.partition(":")[0]


def parse(items: Iterable[str], known: Mapping[str, Setting] = MappingProxyType({})) -> dict[str, Any]:
    """``["preset=strong", "scale=3"]`` as a dict; a dot leads into a table. A value is TOML or a text, and a text where
    ``known`` says that it is one. Raises :class:`UserError` for what is no key=value, and for a key twice.

    >>> parse(["preset=strong", "drop-last=true", "also=a,b", "options.warmup=0"])
    {'preset': 'strong', 'drop_last': True, 'also': 'a,b', 'options': {'warmup': 0}}
    """
    found: dict[str, Any] = {}
    for item in filter(None, items):
        key, equals, value = item.partition("=")
        path = key.strip().replace("-", "_").split(".")
        if not equals or not all(path):
            raise UserError("a setting as key=value", shown(item), "write for example preset=strong")
        place = found
        for table in path[:-1]:
            place = place.setdefault(table, {})
            if not isinstance(place, dict):
                raise UserError(f"{table} as a table or as a value", "both", f"leave out {table}=")
        if path[-1] in place:
            raise UserError(f"{key.strip()} once", "it twice", "leave one out")
        read = _scalar(value.strip())
        text = len(path) == 1 and path[0] in known and _only_text(known[path[0]].type)
        place[path[-1]] = value.strip() if text and not isinstance(read, str) else read
    return found


def _scalar(text: str) -> Any:
    """A TOML value as such, anything else as text: the command line needs no quotes."""
    if "#" in text or "\n" in text or len(text) > LONGEST:  # what stands behind them would be lost
        return text
    try:
        return parse_toml(f"v = {text}")["v"]
    except ValueError:
        return text


# ---- in words ----


def table(known: Mapping[str, Setting], presets: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
          ) -> list[dict[str, Any]]:  # fmt: skip
    """Settings as rows, fit for JSON: name, type, required, default, sentence.

    ``presets`` (name → settings) say what a default of None stands for.
    """
    rows = []
    for one in known.values():
        row = {"name": one.name, "type": one.expected, "required": one.default is NONE}
        row |= {"default": None if one.default is NONE else _plain(one.default), "sentence": one.sentence}
        told = {preset: values[one.name] for preset, values in presets.items() if one.name in values}
        rows.append(row | ({"presets": told} if told and one.default is None else {}))
    return rows


def shown(value: Any) -> str:
    """A value as it stands in an error: short, in one line, whatever it is.

    >>> shown(float("nan")), shown("a\\nb"), shown(10**30), shown(float)
    ('nan', "'a\\\\nb'", '1000000000000000000000000000000', 'the class float')
    """
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if not isinstance(value, (str, bytes, int, float, list, tuple, dict, set, types.NoneType)):
        return f"a {type(value).__name__}"
    try:
        text = repr(value[:100] if isinstance(value, (str, bytes, list, tuple)) else value)
    except (ValueError, RecursionError):  # more digits than Python writes, or a list in itself
        return f"a {type(value).__name__}"
    return text if len(text) <= 60 else text[:58] + "…"


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _parts(annotation: Any) -> list[tuple[Any, tuple[Any, ...]]]:
    """The members of a union, each with all its metadata; None is left out."""
    if get_origin(annotation) is Annotated:
        inner, *metadata = get_args(annotation)
        return [(base, (*own, *metadata)) for base, own in _parts(inner)]
    if get_origin(annotation) in (Union, types.UnionType):
        return [part for member in get_args(annotation) for part in _parts(member)]
    return [] if annotation in (None, types.NoneType) else [(annotation, ())]


def _described(annotation: Any) -> list[str]:
    """Each plain member of a type in words; what cannot be written (a callable, an object) is left out."""
    return [text for base, metadata in _parts(annotation) if (text := _one(base, metadata))]


def _class_names(annotation: Any) -> str:
    """What only code can give, by the names of its classes."""
    return " or ".join(f"a {getattr(get_origin(base) or base, '__name__', base)}" for base, _ in _parts(annotation))


def _one(base: Any, metadata: tuple[Any, ...]) -> str:
    told = [m.words for m in metadata if isinstance(m, Told)]
    if told:
        return told[-1]
    if isinstance(base, type) and issubclass(base, BaseModel):
        return "a table"
    choices = next((m.choices for m in metadata if isinstance(m, Among)), get_args(base))
    if get_origin(base) is Literal or (base is str and choices):
        return "one of " + ", ".join(map(str, choices))
    if base in (int, float):
        return ("a whole number" if base is int else "a number") + _range(metadata)
    inner = [part for part in get_args(base) if part is not ...] if get_origin(base) in (tuple, list) else []
    if any(part is not Any and not _described(part) for part in inner):
        return ""  # of objects
    filled = any(isinstance(limit, MinLen) for limit in _limits(metadata))
    listed = "a list with something in it" if filled else "a list"
    known = {bool: "true or false", str: "a text", tuple: listed, list: listed, dict: "a table"}
    return known.get(get_origin(base) or base, "")


def _limits(metadata: tuple[Any, ...]) -> list[Any]:
    return [limit for m in metadata for limit in getattr(m, "metadata", [m])]  # pydantic's Field holds several


def _range(metadata: tuple[Any, ...]) -> str:
    limits = _limits(metadata)
    low = next((f"from {_digits(m.ge)}" for m in limits if isinstance(m, Ge)), "")
    above = next((f"above {_digits(m.gt)}" for m in limits if isinstance(m, Gt)), "")
    high = next((f"{_digits(m.le)}" for m in limits if isinstance(m, Le)), "")
    under = next((f"{_digits(m.lt)}" for m in limits if isinstance(m, Lt)), "")
    begin = " " + (low or above) if low or above else ""
    end = f" to {high}" if high and low else f" up to {high}" if high else f" to below {under}" if under else ""
    return begin + end


def _digits(value: Any) -> str:
    """9223372036854775808 as it is read: 2**63."""
    if isinstance(value, int) and value >= 2**31 and value & (value - 1) == 0:
        return f"2**{value.bit_length() - 1}"
    return str(value) if isinstance(value, int) else f"{value:g}"


def _instance(annotation: Any, value: Any) -> bool:
    """Whether ``value`` may stand where an object is wanted; a type that says nothing takes all."""
    members = [get_origin(base) or base for base, _ in _parts(annotation)]
    if value is None:
        return Any in members or len(members) < len(get_args(annotation))
    return any(_is(value, member) for member in members)


def _is(value: Any, member: Any) -> bool:
    if member is collections.abc.Callable:
        return callable(value)
    if member in (tuple, list):
        return isinstance(value, (tuple, list))
    return member is Any or not isinstance(member, type) or isinstance(value, member)


def _only_text(annotation: Any) -> bool:
    return all(base is str for base, _ in _parts(annotation))
