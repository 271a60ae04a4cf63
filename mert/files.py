"""Files and folders written whole or not at all, read with errors that name them, and identified by SHA-256."""

import atexit
import hashlib
import json
import os
import re
import shutil
import socket
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mert.errors import CheckpointError, OutputError

_UMASK = os.umask(0o022)  # the only portable way to read it is to set it
os.umask(_UMASK)
_HOST = socket.gethostname()[:32]
_TEMPORARY = re.compile(rf"\.[0-9a-f]{{12}}\.{re.escape(_HOST)}\.(\d+)\.[0-9a-f]{{8}}\.tmp")
_unfinished: set[Path] = set()
_swept: set[Path] = set()
_sweeping = threading.Lock()


def sha256_file(path: str | Path) -> str:
    """SHA-256 of a file as 64 hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds one object; CheckpointError if it does not."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(path, f"cannot be read ({error.strerror})", "check the path") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(path, f"is not JSON ({error})", "write or download it again") from error
    if not isinstance(values, dict):
        raise CheckpointError(path, "is not a JSON object", "write or download it again")
    return values


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a file of JSON lines, none without a file; a line that a kill cut off ends them."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def append_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Add rows to a file of JSON lines and have them on the disk; a last line that a kill cut off is ended first."""
    with open(path, "a+b") as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
        file.write("".join(json.dumps(row) + "\n" for row in rows).encode())
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """OutputError, which names the file, where the disk refuses what the block writes."""
    try:
        yield
    except OSError as error:
        reason = f"cannot be written ({error.strerror or error})"
        raise OutputError(path, reason, "check permissions, free space and the length of the name") from error


@contextmanager
def write_whole(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, which takes its place when the block ends well and vanishes otherwise.

    OutputError if the disk refuses.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            put_in_place(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def put_in_place(temporary: Path, path: Path) -> None:
    """Replace `path` by a complete file, once that is on the disk."""
    with open(temporary, "rb+") as file:
        os.fsync(file.fileno())
    temporary.chmod(0o666 & ~_UMASK)  # some writers create files that only their owner can read
    os.replace(temporary, path)


@contextmanager
def write_folder(path: Path) -> Iterator[Path]:
    """An empty folder, which takes the place of `path` when the block ends well and vanishes otherwise.

    Whatever interrupts the exchange, the old folder is put back; after a kill it is beside `path`, as `.NAME.PID.old`.
    OutputError if the disk refuses.
    """
    old = path.with_name(f".{path.name}.{os.getpid()}.old")  # not below the temporary folder, which may be swept
    with temporary_folder(path) as folder, writing(path):
        new = folder / "new"
        new.mkdir()
        yield new
        try:
            if path.exists():
                os.rename(path, old)
            os.rename(new, path)
        finally:
            if old.exists() and not path.exists():
                os.rename(old, path)
            shutil.rmtree(old, ignore_errors=True)


@contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """A new hidden folder beside `path`, removed in the end; what dead processes left there is removed first."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path.parent)
        key = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:12]
        folder = path.parent / f".{key}.{_HOST}.{os.getpid()}.{os.urandom(4).hex()}.tmp"
        _unfinished.add(folder)  # before it exists: an interrupt may come between any two lines
        folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _unfinished.discard(folder)


def sweep(folder: Path) -> None:
    """Remove what dead processes of this machine left half-written in a folder, once per process."""
    folder = folder.absolute()
    with _sweeping:
        if folder in _swept:
            return
        for left in folder.glob(".*.tmp"):
            match = _TEMPORARY.fullmatch(left.name)
            if match and not _is_alive(int(match[1])):
                shutil.rmtree(left, ignore_errors=True)
        _swept.add(folder)


def _is_alive(pid: int) -> bool:
    """Whether another process has this id; before its sweep of a folder, this one has written nothing there."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return pid != os.getpid()


@atexit.register
def _remove_unfinished() -> None:
    for folder in list(_unfinished):
        shutil.rmtree(folder, ignore_errors=True)


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write one JSON object, whole or not at all."""
    with write_whole(path) as temporary:
        temporary.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
