"""Every registered metric of a suite: it fills a column, says what it can be told, and has no number for no picture."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from unsee import pictures
from unsee.errors import UserError
from unsee.metrics import measures
from unsee.registry import METRICS, resolve
from unsee.settings import declared

TOLD = {"clip": ":model=picto"}  # what opens it offline


@pytest.fixture(params=list(METRICS))
def name(request, monkeypatch):
    """AlexNet is a download: another network in its place."""
    monkeypatch.setattr("unsee.metrics.lpips.alexnet", lambda: torch.nn.PairwiseDistance())
    monkeypatch.setattr(torch.nn.PairwiseDistance, "forward", lambda self, a, b: (a - b).abs().mean())
    return request.param


def test_it_bears_its_name_and_every_setting_has_a_sentence(name):
    kind = resolve("metric", METRICS, name)
    assert kind.name == name and kind.__doc__ and set(kind.fills()) <= set(measures.COLUMNS) and kind.fills()
    for one in declared(kind).values():
        assert one.sentence.endswith(".") and one.expected
        one.check(name, one.default)


def test_it_measures_pictures_alone(name):
    kind, noise = resolve("metric", METRICS, name), Image.effect_noise((64, 64), 80).convert("RGB")
    other, black = Image.effect_noise((64, 64), 40).convert("RGB"), Image.new("RGB", (64, 64))
    bad = pictures.mark(noise.copy(), pictures.NOT_FINITE)
    whole = {column: name + TOLD.get(name, "") if column in kind.fills() else "picto" for column in measures.COLUMNS}
    for column, measure in measures.opened("tiny:sd1", whole).items():
        text = column == "clip_score"
        beside = ["a dagger"] * 4 if text else [noise, noise, noise, black]
        found = measure([noise, black, bad, other], beside)
        assert found[1:3] == [None, None] and isinstance(found[0], float) and (text or found[3] is None)
        assert text or (found[0] == pytest.approx(1, abs=1e-5) and measure([other], [noise])[0] < 1)
        assert measure([], []) == []
        with pytest.raises(ValueError):
            measure([noise], [])


def test_what_it_cannot_be_told_is_one_line(name):
    (column, *_) = resolve("metric", METRICS, name).fills()
    whole = dict.fromkeys(measures.COLUMNS, "picto")
    for wrong in (f"{name}:nosuch=1", f"{name}x", f"{name}:a", 3, None, ["x"]):
        with pytest.raises(UserError) as error:
            measures.check(whole | {column: wrong})
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="both metrics, or none"):
        measures.check({column: name})
