"""Folders and files of the Hugging Face hub, in the local cache. The hub raises many kinds: all are one line here."""

from __future__ import annotations

import re
from pathlib import Path

from ..errors import BadFile
from .door import reading

ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")


def hub_id(source: object) -> bool:
    """Whether this can be the id of a repository: OWNER/NAME."""
    return isinstance(source, str) and bool(ID.fullmatch(source)) and ".." not in source and "--" not in source


def hub_folder(source: str, what: str, do: str, *, revision: str | None = None, files: list[str] | None = None) -> Path:
    """A repository's files (those like ``files``), fetched; an id that is none is refused without asking."""
    _check(source, what, do)
    with reading(what, source, do):
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(source, revision=revision, allow_patterns=files))


def hub_file(source: str, file: str, what: str, do: str, *, revision: str | None = None,
             kind: str | None = None) -> Path:  # fmt: skip
    """One file of a repository, fetched. ``kind``: None for a model, ``dataset``."""
    _check(source, what, do)
    with reading(what, f"{source}/{file}", do):
        from huggingface_hub import hf_hub_download

        return Path(hf_hub_download(source, file, repo_type=kind, revision=revision))


def _check(source: object, what: str, do: str) -> None:
    if not hub_id(source):
        raise BadFile(what, f"{source}", do)
