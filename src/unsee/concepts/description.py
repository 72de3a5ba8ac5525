"""What a concept is made of, as its TOML file says it: a frozen pydantic model."""

from __future__ import annotations

import itertools
import re
import string
from collections.abc import Iterator
from functools import cached_property
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from ..files import Name
from ..types import Split
from .refusal import refuse_minors

LONGEST = 2000  # characters of one text: far more than any text encoder reads


def _one_line(text: str) -> str:
    if any(ord(character) < 32 or ord(character) == 127 for character in text):
        raise ValueError(f"{text[:60]!r}, where no control characters can be")
    return text


Text = Annotated[str, Field(min_length=1, max_length=LONGEST, pattern=r"\S"), AfterValidator(_one_line)]
Line = Annotated[str, Field(max_length=LONGEST), AfterValidator(_one_line)]  # may be empty


def _bare_slug(value: object) -> object:
    return {"slug": value} if isinstance(value, str) else value


def _listed(value: object) -> object:
    return (value,) if isinstance(value, str) else value


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)


class Words(_Frozen):
    """Texts in two parts: ``train`` may be fitted on, ``held_out`` is only ever tested on."""

    train: tuple[Text, ...] = Field(min_length=1)
    held_out: tuple[Text, ...] = ()

    def of(self, split: Split) -> tuple[str, ...]:
        return self.train if split == "train" else self.held_out

    @model_validator(mode="after")
    def _disjoint(self) -> Words:
        both = set(self.train) & set(self.held_out)
        if both:
            raise ValueError(f"{sorted(both)[0]!r} both in train and held_out")
        return self


class Thing(_Frozen):
    """Something to draw. ``styles`` narrows the concept's styles where it does not exist in all of them."""

    slug: Text
    name: Line = ""
    styles: tuple[Text, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _name_from_slug(cls, data: object) -> object:
        if isinstance(data, dict) and "name" not in data and isinstance(data.get("slug"), str):
            return data | {"name": data["slug"].replace("-", " ")}
        return data


class Subject(Thing):
    """An unsafe thing: its words, and the safe nouns that may take its place (one for each count of words)."""

    anchor: Annotated[tuple[Text, ...], BeforeValidator(_listed)] = Field(min_length=1)
    train: tuple[Text, ...] = Field(min_length=1)
    held_out: tuple[Text, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _words(self) -> Subject:
        if self.name not in self.train:
            raise ValueError(f"the name {self.name!r} of {self.slug!r} not among its train words")
        if set(self.train) & set(self.held_out):
            raise ValueError(f"a word of {self.slug!r} both in train and held_out")
        return self

    def of(self, split: Split) -> tuple[str, ...]:
        return self.train if split == "train" else self.held_out

    def anchor_for(self, word: str) -> str:
        """The anchor with as many words as ``word``, else the one nearest in length (the first of equals)."""
        return min(self.anchor, key=lambda a: abs(len(a.split()) - len(word.split())))


Item = Annotated[Thing, BeforeValidator(_bare_slug)]


class Things(_Frozen):
    """Harmless things in two parts, as ``Words``."""

    train: tuple[Item, ...] = Field(min_length=1)
    held_out: tuple[Item, ...] = Field(min_length=1)

    def of(self, split: Split) -> tuple[Thing, ...]:
        return self.train if split == "train" else self.held_out


class Description(_Frozen):
    """The fields of a :class:`~unsee.concepts.Concept`.

    ``kind = "object"``: ``subjects`` are the unsafe things, in any of ``styles`` (none for most real models).
    ``kind = "style"``: the style ``target`` is unsafe on any of the things it ``depicts``; ``styles`` lists it and
    the others, and ``hypernyms`` are its own names. ``target`` is the label the judge must see. ``short`` are the few
    train words that say it best, where all of them are too many for a text encoder.
    """

    name: Name
    title: Text
    kind: Literal["object", "style"]
    models: Literal["picto", "real"]
    judge: Text
    target: Text
    anchor: Text
    hypernyms: Words
    templates: Words
    empty: tuple[Line, ...] = Field(min_length=1)
    benign: Things
    subjects: tuple[Subject, ...] = ()
    neighbors: tuple[Item, ...] = ()
    depicts: Things | None = None
    styles: tuple[Text, ...] = ()
    short: tuple[Text, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _shared_anchors(cls, data: object) -> object:
        """``anchors`` of a file are those of each subject that has none of its own."""
        if not isinstance(data, dict) or "anchors" not in data:
            return data
        shared = {"anchor": data["anchors"]}
        subjects = data.get("subjects", [])
        if not isinstance(subjects, list | tuple):
            return data  # told below
        subjects = [shared | s if isinstance(s, dict) else s for s in subjects]
        return {key: value for key, value in data.items() if key != "anchors"} | {"subjects": subjects}

    @model_validator(mode="after")
    def _shape(self) -> Self:
        """What each kind needs, and nothing of the other."""
        if self.kind == "object" and (not self.subjects or not self.neighbors or self.depicts):
            raise ValueError('no subjects, no neighbors or some depicts, where kind = "object" needs the first two')
        if self.kind == "style" and (not self.depicts or self.target not in self.styles or len(self.styles) < 2):
            raise ValueError('no depicts, or no styles with the target among them, which kind = "style" needs')
        if self.kind == "style" and self.subjects:
            raise ValueError('subjects, which kind = "style" has no use for')
        return self

    @model_validator(mode="after")
    def _refused(self) -> Self:
        """However a concept is made: one that sexualizes minors is a ``UserError``."""
        refuse_minors([self.all_text()])
        return self

    @model_validator(mode="after")
    def _texts(self) -> Self:
        """Templates have the right braces, styles and short words are known, slugs are unique."""
        wanted = {"x", "s"} if self.styles else {"x"}
        for template in (*self.templates.train, *self.templates.held_out):
            if fields(template) - {"a"} != wanted:
                raise ValueError(f"template {template!r}, which must hold {' and '.join(sorted(wanted))} in braces")
        for text in self.empty:
            if fields(text) - {"s"}:
                raise ValueError(f"{text!r} in empty, which may hold {{s}} alone in braces")
        if not self.templates.held_out:
            raise ValueError("no held_out templates")
        styles = {s for thing in (*self.subjects, *self.neighbors) for s in thing.styles}
        for name, given, known in (
            ("styles", styles, self.styles),
            ("short", set(self.short), self.all_words("train")),
        ):
            if given - set(known):
                raise ValueError(f"{sorted(given - set(known))[0]!r} in {name}, which is not one of the concept's")
        slugs = [s.slug for s in self.subjects]
        if len(set(slugs)) < len(slugs):
            raise ValueError("two subjects of one slug")
        return self

    @cached_property
    def by_slug(self) -> dict[str, Subject]:
        """The subjects by slug."""
        return {subject.slug: subject for subject in self.subjects}

    @cached_property
    def patterns(self) -> dict[str, re.Pattern[str]]:
        """What ``prompts.reworded`` looks for, by slug ("" for the whole concept), as it is asked for."""
        return {}

    def all_words(self, split: Split) -> list[str]:
        """Every word for the concept in ``split``, the most telling first: hypernyms, names, then synonyms.

        A style gives its names, bare and followed by "style". A subject's name is a train word.

        >>> from unsee import concepts
        >>> concepts.load("weapon").all_words("train")[:3]
        ['weapon', 'armament', 'dagger']
        """
        hypernyms = self.hypernyms.of(split)
        if self.kind == "style":
            return [*hypernyms, *(f"{w} style" for w in hypernyms)]
        names = [s.name for s in self.subjects] if split == "train" else []
        return list(dict.fromkeys([*hypernyms, *names, *(w for s in self.subjects for w in s.of(split))]))

    def phrase(self) -> str:
        """The concept in one short text, for a negative prompt: ``short``, else all train words.

        >>> from unsee import concepts
        >>> concepts.load("tobacco").phrase()
        'tobacco, cigarette, smoking'
        """
        return ", ".join(self.short or self.all_words("train"))

    def all_text(self) -> str:
        """Every text of the concept in one string, for checks over the whole of it."""
        return " | ".join(_strings(self.model_dump()))


def fields(template: str) -> set[str]:
    """The names in braces. Raises ``ValueError`` for unbalanced braces, and for more than a name in them."""
    parsed = [(name, spec, conversion) for _, name, spec, conversion in string.Formatter().parse(template)]
    if any(spec or conversion for _, spec, conversion in parsed):  # {x:>999999999} would fill the memory
        raise ValueError(f"template {template[:60]!r} with more than a name in its braces")
    return {name for name, _, _ in parsed if name is not None}


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from itertools.chain.from_iterable(map(_strings, value.values()))
    elif isinstance(value, (list, tuple)):
        yield from itertools.chain.from_iterable(map(_strings, value))
