"""The one door for foreign bytes, the names that may become files, and files that are whole or not there.

Whatever comes from outside (JSON, TOML, CSV, text, safetensors, torch files, images, SQLite, Parquet, hub ids) is
opened here and nowhere else; a test holds it. Every failure is a :class:`~unsee.errors.BadFile` with the file, the
place and what to do. Asked for first: a regular file of a bounded size. What comes out: values of a bounded depth.

    door      what may be opened, and how a failure is told       texts     text, JSON, TOML, CSV; values of a type
    tensors   safetensors and torch files                         pictures  images
    tables    SQLite and Parquet                                  hub       folders and files of the Hugging Face hub
    prompts   rows of prompts in the public files' forms
    names     what may name a file, and what leads out            writing   whole or not there; checksums
"""

from .door import (
    PICTURE,
    SETTINGS,
    TABLE,
    WEIGHTS,
    exists,
    is_dir,
    is_empty,
    is_file,
    read_bytes,
    reading,
    reason,
    regular,
)
from .hub import hub_file, hub_folder
from .names import Name, inside, name_ok, named, plain, target
from .pictures import decode_image, open_image
from .tables import Database, Locked, Row, columns, open_resting, open_sqlite, read_parquet, write_parquet
from .tensors import load_tensors, metadata_json, read_torch, tensor_shapes
from .texts import parse_json, parse_toml, read_json, read_text, read_toml, typed
from .writing import compact_json, contents, digest, save_tensors, sha256

__all__ = [
    "Database", "Locked", "Name", "PICTURE", "Row", "SETTINGS", "TABLE", "WEIGHTS", "columns", "compact_json",
    "contents",
    "decode_image", "digest", "exists", "hub_file", "hub_folder", "inside", "is_dir", "is_empty", "is_file",
    "load_tensors", "metadata_json", "name_ok", "named", "open_image", "open_resting", "open_sqlite", "parse_json",
    "parse_toml", "plain", "read_bytes", "read_json", "read_parquet", "read_text",
    "read_toml", "read_torch", "reading", "reason", "regular", "save_tensors", "sha256", "target", "tensor_shapes",
    "typed", "write_parquet",
]  # fmt: skip
