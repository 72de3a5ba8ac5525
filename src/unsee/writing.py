"""Files and folders, whole or not there, with the rights that the umask gives; what the disk refuses is one line.

What is written is made in a scratch folder beside its place (``.NAME.1f2e3d4c.part``) and moved there in one step. A
process that is killed leaves at most such a folder. Its owner holds a lock on it, which dies with the process, so the
next one that writes at the same place takes it away.

A folder that takes the place of another changes places with it in one step (``renameat2`` on Linux, ``renamex_np`` on
macOS): at no time there is none. Where the file system cannot, the old one goes aside first, as ``.NAME.old``, and
:func:`recover`, which every reader and writer of such a folder calls, puts it back if its owner was killed between.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import secrets
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import Unwritable, UserError

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
REFUSALS = NO_ROOM | {  # of a disk or its owner, never a fault of ours
    errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY,
    errno.ENAMETOOLONG, errno.ELOOP, errno.EBUSY, errno.EXDEV, errno.EMFILE, errno.ENFILE, errno.ESTALE,
}  # fmt: skip
PART, OLD = "part", "old"
PATIENCE = 2.0  # seconds that a reader waits for a folder which a living process is exchanging


@contextmanager
def writing(place: str | Path) -> Iterator[None]:
    """Within: what the disk refuses (no room, no permission, read-only) is :class:`Unwritable`, of ``place``."""
    try:
        yield
    except OSError as error:
        told = refusal(error, place)
        if told is None:
            raise
        raise told from None


def refusal(error: OSError, place: str | Path = "") -> Unwritable | None:
    """The line for an error of the disk; None for an error of another kind."""
    if error.errno not in REFUSALS:
        return None
    where = str(place or error.filename or "a file or standard output")
    room = "free some room, or choose another place; the same command goes on"
    do = room if error.errno in NO_ROOM else "choose another place, or change its rights"
    return Unwritable("a place to write", f"{where} ({error.strerror or os.strerror(error.errno)})", do)


def check_place(folder: str | Path) -> None:
    """Raises :class:`Unwritable` unless files can be made in ``folder``, which may not be there yet.

    Tried, not asked for: root, ACLs and read-only mounts answer for themselves. Leaves nothing.
    """
    there = Path(folder).absolute()
    while not os.path.lexists(there) and there != there.parent:
        there = there.parent
    with writing(folder):
        if not there.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, f"{there} is no folder")
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(bytes(4096))


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A file to write to, moved to ``path`` if the block ends well: no part is taken for a whole.

    It is empty, in a folder of its own; the parents of ``path`` are made. Raises :class:`Unwritable`.
    """
    with writing(path), scratch(path) as place:
        fresh = place / PART
        fresh.touch()
        mode = stat.S_IMODE(fresh.stat().st_mode)  # what the umask, or the folder's own rule, gives
        yield fresh
        fresh.chmod(mode)  # some writers make private files
        os.replace(fresh, path)


@contextmanager
def placed(folder: Path) -> Iterator[Path]:
    """A new folder to fill, moved to ``folder`` if the block ends well, in exchange for what lies there.

    Raises :class:`Unwritable`.
    """
    folder = Path(os.path.realpath(folder))  # what a link names, not the link
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        recover(folder)
        with scratch(folder) as fresh:
            yield fresh
            if not folder.exists():
                os.rename(fresh, folder)
            elif not _exchange(fresh, folder):
                _aside(fresh, folder)


def recover(folder: Path) -> None:
    """Puts back what a killed process had put aside to exchange ``folder``, or takes it away where it is not needed."""
    folder = Path(os.path.abspath(folder))
    old, waited = _beside(folder, OLD) if folder.name else folder, time.monotonic() + PATIENCE
    while old != folder and os.path.lexists(old):
        with writing(folder), _held(old) as ours:
            late = time.monotonic() > waited
            done = ours or (ours is None and late)  # without locks, only time tells that its owner is gone
            if done and not folder.exists():
                os.rename(old, folder)
            elif done:
                shutil.rmtree(old, ignore_errors=True)
            if done or late or folder.exists():
                return
        time.sleep(0.01)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Within: no other process of this machine makes ``folder``. Raises :class:`UserError` while one does.

    The lock, a folder beside it, is left by a process that is killed, and taken over.
    """
    lock = _beside(Path(os.path.abspath(folder)), "lock")
    with writing(folder), contextlib.ExitStack() as stack:
        while True:
            lock.mkdir(parents=True, exist_ok=True)
            ours = stack.enter_context(_held(lock))
            if lock.exists():  # else its last owner took it away in between
                break
        if ours is False:
            got, do = f"{folder} in use by another process", "wait or choose another --out"
            raise UserError("a folder that no other process is making", got, do)
        stack.callback(shutil.rmtree, lock, ignore_errors=True)
        yield


@contextmanager
def scratch(path: Path) -> Iterator[Path]:
    """A new folder beside ``path``, locked, and gone when the block ends; what killed processes left there goes too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path)
    with contextlib.ExitStack() as stack:
        made = _new(path, stack)
        try:
            yield made
        finally:
            shutil.rmtree(made, ignore_errors=True)


def _new(path: Path, stack: contextlib.ExitStack) -> Path:
    while True:
        made = _beside(path, f"{secrets.token_hex(4)}.{PART}")
        with contextlib.suppress(FileExistsError):
            made.mkdir()
            ours = stack.enter_context(_held(made))
            if ours is not False and made.exists():  # else another process took it for a leftover, before the lock
                return made


def _sweep(path: Path) -> None:
    """Removes the scratch folders of ``path`` that nobody holds. Without locks, none: they are harmless."""
    for left in _leftovers(path):
        with _held(left) as ours:
            if ours:
                shutil.rmtree(left, ignore_errors=True)


def _leftovers(path: Path) -> list[Path]:
    named = re.compile(re.escape(_beside(path, "").name) + rf"[0-9a-f]{{8}}\.{PART}")
    with os.scandir(path.parent) as entries:
        return [Path(entry.path) for entry in entries if named.fullmatch(entry.name) and entry.is_dir()]


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(f".{path.name[:40]}.{ending}")  # a name has 255 bytes at most


@contextmanager
def _held(folder: Path) -> Iterator[bool | None]:
    """True: ours alone while the block lasts. False: another's, or gone. None: there are no locks here."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield None
        return
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        yield False
        return
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            got: bool | None = True
        except OSError as error:
            got = False if error.errno in (errno.EAGAIN, errno.EACCES) else None  # None: NFS, for one
        yield got
    finally:
        os.close(handle)


def _exchange(one: Path, other: Path) -> bool:
    """Both change places in one step. False where the system or the file system has no such step."""
    libc, here = ctypes.CDLL(None, use_errno=True), -100  # AT_FDCWD
    if sys.platform == "darwin" and hasattr(libc, "renamex_np"):
        failed = libc.renamex_np(os.fsencode(one), os.fsencode(other), 2)  # RENAME_SWAP
    elif sys.platform == "linux" and hasattr(libc, "renameat2"):
        failed = libc.renameat2(here, os.fsencode(one), here, os.fsencode(other), 2)  # RENAME_EXCHANGE
    else:
        return False
    if not failed:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM):  # EPERM: in a sandbox
        return False
    raise OSError(code, os.strerror(code), str(other))


def _aside(made: Path, folder: Path) -> None:
    """The same in steps; after a kill between two of them :func:`recover` has the old one or the new one."""
    old = _beside(folder, OLD)
    with _held(folder):  # goes aside with it: nobody recovers what is under way
        os.rename(folder, old)
        try:
            os.rename(made, folder)
        finally:
            os.rename(old, made if folder.exists() else folder)  # scratch, which is removed; or back
