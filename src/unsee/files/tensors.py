"""Tensors: safetensors, and torch files of nothing but tensors. Nothing is unpickled that could run code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .door import WEIGHTS, Place, reading, regular
from .texts import parse_json

if TYPE_CHECKING:
    from torch import Tensor

WHAT, DO = "a file of tensors as safetensors", "copy or make the file again"


def load_tensors(path: Place, what: str = WHAT, do: str = DO) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(tensors, metadata) of a safetensors file."""
    regular(path, what, do, WEIGHTS)
    with reading(what, path, do):
        from safetensors import safe_open

        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118


def tensor_shapes(path: Place, what: str = WHAT, do: str = DO) -> dict[str, tuple[int, ...]]:
    """Name → shape of the tensors in a safetensors file, of which only the head is read."""
    regular(path, what, do, WEIGHTS)
    with reading(what, path, do):
        from safetensors import safe_open

        with safe_open(path, framework="np") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def read_torch(path: Place, what: str, do: str) -> Any:
    """What a torch file holds, on the CPU, read with ``weights_only``: tensors, numbers, text, lists and tables."""
    regular(path, what, do, WEIGHTS)
    with reading(what, path, do):
        import torch

        return torch.load(path, map_location="cpu", weights_only=True)


def metadata_json(metadata: dict[str, str], key: str, path: Place, do: str) -> Any:
    """The JSON value under ``key`` of a file's metadata, as checkpoints keep their numbers."""
    with reading(f"a file whose metadata have {key!r} as JSON", path, do):
        return parse_json(metadata[key], finite=False)
