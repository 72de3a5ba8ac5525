"""Opening a model for the bench, and what it runs on.

A model is what :func:`unsee.load` opens: ``picto``, a diffusers folder, a hub id, or ``tiny:sd1`` and its
sisters (random pipelines built in code, for dry runs and tests).
"""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import TYPE_CHECKING

from .. import picto
from ..errors import UserError
from ..files import digest, is_file, read_text

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


GUIDANCE = {"picto": picto.GUIDANCE}  # DDIM at 3 to 5 draws best there; Stable Diffusion's 7.5 burns the colors


def open_model(name: str, device: str = "cpu") -> DiffusionPipeline:
    """A diffusers pipeline, its own progress bar silenced.

    Raises :class:`UserError` if there is none, or no such device: before anything is loaded.
    """
    from .loading import load

    check_device(device)
    pipe = load(name)
    pipe.set_progress_bar_config(disable=True)
    return pipe if device == "cpu" else pipe.to(device)


def check_device(device: str) -> None:
    """Raises :class:`UserError` unless this machine's torch can compute on ``device``. It is tried, not asked for."""
    import torch

    try:
        able = torch.ones(1, device=torch.device(device)).add(1).item() == 2  # ``meta`` has no numbers
    except (RuntimeError, AssertionError, NotImplementedError, ModuleNotFoundError) as error:
        why = (str(error).strip().splitlines() or [type(error).__name__])[0].partition(". ")[0]
        raise UserError("a device that torch has here", f"{device!r} ({why})", _devices()) from None
    if not able:
        raise UserError("a device that torch has here", repr(device), _devices())


def _devices() -> str:
    """Those there are, as advice."""
    import torch

    found = ["cpu"] + [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    return "use " + " or ".join(found + ["mps"] * torch.backends.mps.is_available())


def fingerprint(pipe: DiffusionPipeline) -> list[object]:
    """What the model is, for content addresses: its weights' fingerprints and its scheduler."""
    from ..backbones import adapter

    backbone = adapter(pipe)
    scheduler = {k: v for k, v in pipe.scheduler.config.items() if not k.startswith("_")}
    text = json.dumps(scheduler, sort_keys=True, default=str)
    return [backbone.fingerprint(), backbone.text_fingerprint(), type(pipe.scheduler).__name__, text]


def default_guidance(name: str, pipe: DiffusionPipeline, *, needed: bool = True) -> float:
    """The guidance scale to draw with if none is asked for: picto's, else the pipeline's own. Where that is none, as
    FLUX's true one, and it is ``needed`` because defenses act through it, the family's usual one."""
    from ..backbones import adapter

    if name in GUIDANCE:
        return GUIDANCE[name]
    backbone = adapter(pipe)
    return backbone.least_guidance if needed and backbone.usual_guidance <= 1 else backbone.usual_guidance


def versions() -> dict[str, str]:
    """Of everything that can change a picture."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version()}
    for package in ("unsee", "torch", "diffusers", "transformers"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # a checkout that was never installed
            found[package] = "not installed"
    return found


def brief(fingerprint: list[object]) -> str:
    """A fingerprint as one short word, to compare and to show."""
    return digest(fingerprint)[:16]


def machine(device: str = "cpu", workers: int = 1, threads: int = 1, engine: str = "local") -> dict[str, object]:
    """What the timings were taken on; ``threads`` are those of one worker."""
    name = platform.machine()
    if device.startswith("cuda"):
        import torch

        name = torch.cuda.get_device_name()
    found = {"device": device, "name": name, "workers": workers, "threads": threads, "commit": _commit()}
    return found if engine == "local" else found | {"engine": engine}


def _commit() -> str:
    """The commit of a source checkout; empty for an installed package (its folder may lie in another repository)."""
    root = Path(__file__).parents[3]
    head = root / ".git" / "HEAD"
    if not is_file(head):
        return ""
    text = _line(head)
    if not text.startswith("ref: "):
        return text
    ref = root / ".git" / text.removeprefix("ref: ")
    return _line(ref) if is_file(ref) else ""


def _line(path: Path) -> str:
    return read_text(path, "a file of git", "mend the checkout").strip()
