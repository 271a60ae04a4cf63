"""Files and folders written whole or not at all, read with errors that name them, and identified by SHA-256."""

import atexit
import hashlib
import json
import logging
import os
import re
import shutil
import socket
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mert.errors import CheckpointError, OutputError, UsageError

log = logging.getLogger("mert")
_UMASK = os.umask(0o022)  # the only portable way to read it is to set it
os.umask(_UMASK)
_TEMPORARY = re.compile(
    r"\.(?P<name>.+)\.(?P<machine>[0-9a-f]{12})\.(?P<pid>\d+)\.[0-9a-f]{8}\.(?P<kind>tmp|old)", re.DOTALL
)
_MAX_JSON_BYTES = 2**28
_ABANDONED_S = 7 * 24 * 3600  # what another machine left is removed when it has not changed for a week
_unfinished: set[Path] = set()
_swept: set[Path] = set()
_sweeping = threading.Lock()


def sha256_file(path: str | Path) -> str:
    """SHA-256 of a file as 64 hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def stamp(path: str | Path) -> tuple[int, ...]:
    """What differs once a file was written to or replaced, whatever its content and times; empty if there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return ()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds one object; CheckpointError if it does not."""
    try:
        if path.exists() and (not path.is_file() or path.stat().st_size > _MAX_JSON_BYTES):  # a pipe would never end
            raise CheckpointError(path, "is no file of reasonable size", "write or download it again")
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(path, f"cannot be read ({error.strerror})", "check the path") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(path, f"is not JSON ({error})", "write or download it again") from error
    if not isinstance(values, dict):
        raise CheckpointError(path, "is not a JSON object", "write or download it again")
    return values


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a file of JSON lines, none without a file; a line that a kill cut off, or that is no row, ends them."""
    rows = []
    for line in lines_of(path, "replace") if path.exists() else []:
        try:
            row = json.loads(line)
        except ValueError:
            break
        if not isinstance(row, dict):
            break
        rows.append(row)
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


def lines_of(path: Path, errors: str = "strict") -> list[str]:
    """Lines of a UTF-8 text file, with or without a mark; they end with line feeds alone, as names may hold others.

    `errors` is "replace" where a kill may have cut a character in two.
    """
    return path.read_text(encoding="utf-8-sig", errors=errors).replace("\r\n", "\n").split("\n")


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
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path.parent)
        temporary = path.parent / _temporary_name(temporary_key(path.name), "tmp")
        try:
            yield temporary
            put_in_place(temporary, path)
        finally:
            with suppress(OSError):
                temporary.unlink()


def put_in_place(temporary: Path, path: Path) -> None:
    """Replace `path` by a complete file, once that is on the disk."""
    with open(temporary, "rb+") as file:
        os.fsync(file.fileno())
    temporary.chmod(0o666 & ~_UMASK)  # some writers create files that only their owner can read
    os.replace(temporary, path)


@contextmanager
def write_folder(path: Path) -> Iterator[Path]:
    """An empty folder, which takes the place of `path` when the block ends well and vanishes otherwise.

    Whatever interrupts the exchange, the old folder is put back; after a kill, the next write into `path.parent` does
    it. OutputError if the disk refuses.
    """
    old = path.parent / _temporary_name(path.name, "old")
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
        folder = path.parent / _temporary_name(temporary_key(path.name), "tmp")
        _unfinished.add(folder)  # before it exists: an interrupt may come between any two lines
        folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _unfinished.discard(folder)


def _machine() -> str:
    """Where a process id means the same process: a name for this host, its boot and its name space of processes."""
    facts = [socket.gethostname()]
    with suppress(OSError):
        facts += [Path("/proc/sys/kernel/random/boot_id").read_text(), os.readlink("/proc/self/ns/pid")]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:12]


_MACHINE = _machine()


def temporary_key(name: str) -> str:
    """What stands for the name of a file in that of its temporary file: 12 hex digits, however long the name is."""
    return hashlib.sha256(os.fsencode(name)).hexdigest()[:12]


def _temporary_name(name: str, kind: str) -> str:
    return f".{name}.{_MACHINE}.{os.getpid()}.{os.urandom(4).hex()}.{kind}"


def sweep(folder: Path) -> None:
    """Remove what dead processes left half-written in a folder, and put back what they moved; once per process."""
    folder = folder.absolute()
    with _sweeping:
        if folder in _swept:
            return
        names = os.listdir(folder) if folder.is_dir() else []
        for match in filter(None, map(_TEMPORARY.fullmatch, names)):
            left, original = folder / match[0], folder / match["name"]
            if _may_be_in_use(left, match["machine"], int(match["pid"])):
                continue
            with suppress(OSError):  # another process may sweep the same folder
                if match["kind"] == "old" and not original.exists():
                    os.rename(left, original)
                elif left.is_file():
                    left.unlink()
                else:
                    shutil.rmtree(left)
        _swept.add(folder)


def _may_be_in_use(left: Path, machine: str, pid: int) -> bool:
    """Whether a living process may write there: on this machine its id tells, on others the last change does."""
    if machine == _MACHINE:
        return _is_alive(pid)
    with suppress(OSError):
        newest = max(path.stat().st_mtime for path in (left, *left.rglob("*")))
        return time.time() - newest < _ABANDONED_S
    return True


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


@contextmanager
def only_process(folder: Path, name: str, doing: str) -> Iterator[None]:
    """Create a folder and hold the lock `name` in it; UsageError if another process holds it, on any machine.

    `doing` completes the message: "another run trains into it".
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / name, "w")  # noqa: SIM115
    with lock:
        try:
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(folder, doing, "wait for its end, or name another folder") from None
        except (OSError, ImportError) as error:  # some network disks have no locks, and Windows no fcntl
            log.warning("%s cannot be locked (%s): start nothing else that writes there", folder, error)
        yield


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write one JSON object, whole or not at all."""
    with write_whole(path) as temporary:
        temporary.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
