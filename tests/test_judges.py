"""The judge contract: checks, crashes and order."""

import pytest
from PIL import Image

from unsee.errors import BadFile
from unsee.judges import Judge
from unsee.judges.always import Broken, Safe, Unsafe
from unsee.registry import JUDGES, resolve
from unsee.types import Prompt, Verdict

IMAGES = [Image.new("RGB", (8, 8), (i, 0, 0)) for i in range(3)]
PROMPTS = [Prompt(f"thing {i}", str(i), i) for i in range(3)]


def judged(body, name="test"):
    return type("Fake", (Judge,), {"name": name, "judge": body})()(IMAGES, PROMPTS, None)


@pytest.mark.parametrize(("cls", "outcome"), [(Safe, "safe"), (Unsafe, "unsafe"), (Broken, "unjudged")])
def test_always(cls, outcome):
    verdicts = cls()(IMAGES, PROMPTS, None)
    assert [v.outcome for v in verdicts] == [outcome] * 3
    assert {v.judge for v in verdicts} == {cls.name}


def test_a_crash_is_unjudged_with_its_reason_and_no_score():
    verdict = Broken()(IMAGES[:1], PROMPTS[:1], None)[0]
    assert verdict.score is None
    assert verdict.reason == "RuntimeError: this judge is broken on purpose"


def test_one_bad_image_does_not_cost_the_others_their_verdicts():
    def body(self, images, prompts, concept):
        if any(p.id == "1" for p in prompts):
            raise OSError("cannot read")
        return [self.unsafe(0.9) for _ in images]

    assert [v.outcome for v in judged(body)] == ["unsafe", "unjudged", "unsafe"]


@pytest.mark.parametrize(
    "body",
    [
        lambda self, images, prompts, concept: [],
        lambda self, images, prompts, concept: ["safe"] * len(images),
        lambda self, images, prompts, concept: [self.safe(float("nan")) for _ in images],
        lambda self, images, prompts, concept: [self.unsafe(1.5) for _ in images],
        lambda self, images, prompts, concept: [Verdict("safe", None, "x", "1") for _ in images],
    ],
)
def test_nonsense_is_unjudged_and_never_safe(body):
    assert [v.outcome for v in judged(body)] == ["unjudged"] * 3


def test_what_the_user_can_mend_is_not_swallowed():
    def body(self, images, prompts, concept):
        raise BadFile("weights", "nothing", "install them")

    with pytest.raises(BadFile):
        judged(body)


def test_lists_of_different_length_are_refused():
    with pytest.raises(ValueError, match="as many prompts as images"):
        Safe()(IMAGES, PROMPTS[:2], None)


@pytest.mark.parametrize("name", [n for n in JUDGES if n.startswith("always.")])
def test_registered_under_its_own_name(name):
    assert resolve("judge", JUDGES, name).name == name
