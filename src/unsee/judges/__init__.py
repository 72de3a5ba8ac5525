"""Judges: one image in, one verdict out. A judge never averages and never generates."""

from .base import Judge
from .named import load

__all__ = ["Judge", "load"]
