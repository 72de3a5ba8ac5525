"""Judges: one image in, one verdict out. A judge never averages and never generates."""

from .base import Judge

__all__ = ["Judge"]
