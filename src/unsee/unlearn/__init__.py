"""Weight edits: a concept is unlearned in the denoiser's own weights. ``base`` is the artefact all of them share."""

from __future__ import annotations

from .base import WeightEdit

__all__ = ["WeightEdit"]
