"""The restricted reader of pickles (torch zip files `.bin` and `.pt`, checkpoints of runs), in which nothing executes.

An unrestricted reader of pickles runs any code in them. Here opcodes are screened, every class but tensors, plain
containers and records becomes an inert stub, and only the tensors that a model asks for are read.
"""

import io
import math
import pickle
import pickletools
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from mert.errors import AGAIN, CheckpointError

UNUSED = ("BYTEARRAY8", "DUP", "EMPTY_SET", "ADDITEMS", "FROZENSET")  # by torch.save
MAX_COUNT, MAX_DIMENSIONS = 2**48, 8
MAX_OBJECTS_BYTES = 8 * 2**20  # of a data.pkl; that of a full fairseq checkpoint has less than 1 MB
PythonUnpickler: Any = pickle._Unpickler  # the one whose loading of each opcode can be replaced
_DTYPES = {
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.DoubleStorage": torch.float64,
}


class OpenWeights(NamedTuple):
    """An open weights file: its plain objects, the shape of each tensor, and a function that reads one."""

    objects: Any
    shapes: dict[str, tuple[int, ...]]
    read: Callable[[str], Tensor]


@contextmanager
def open_torch(path: Path, key: str | None = None) -> Iterator[OpenWeights]:
    """A zip file of `torch.save`; the state dict is its entry `key`, or all of it for None."""
    with _readable(path):
        is_archive = zipfile.is_zipfile(path)
    if not is_archive:
        reason = "is not a torch zip file: truncated, a bare pickle, or written by torch < 1.6"
        raise CheckpointError(path, reason, "download it again, or re-save it with a current torch")
    with ExitStack() as stack:
        with _readable(path):
            archive = stack.enter_context(zipfile.ZipFile(path))
            prefix = _check_archive(archive, path.stat().st_size)
            objects = _read_objects(archive, prefix)
        state = objects.get(key) if isinstance(objects, dict) and key else objects
        if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
            raise CheckpointError(path, "holds no state dict" + (f" {key!r}" if key else ""), AGAIN)
        odd = [name for name, value in state.items() if not isinstance(value, _Lazy)]
        if odd:
            raise CheckpointError(path, f"{odd[0]} is not a tensor", "use a checkpoint of weights only")

        def read(name: str) -> Tensor:
            with _readable(path, f"{name}: "):
                return _read_tensor(archive, prefix, state[name])

        yield OpenWeights(objects, {name: lazy.shape for name, lazy in state.items()}, read)


def read_tensor(data: bytes) -> Tensor:
    """The one tensor of a `torch.save` in memory; any exception means that it is damaged."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        prefix = _check_archive(archive, len(data))
        return _read_tensor(archive, prefix, _read_objects(archive, prefix))


def read_records(data: bytes, classes: Mapping[str, Any]) -> Any:
    """The objects of a bare pickle, built of `classes` by full name; any exception means that it is damaged."""
    return _load(data, classes)


def check_plain(path: Path) -> None:
    """CheckpointError unless a zip file of `torch.save` holds tensors and plain containers alone.

    For files that another library reads as unrestricted pickles, which would run any code in them.
    """
    with _readable(path), zipfile.ZipFile(path) as archive:
        prefix = _check_archive(archive, path.stat().st_size)
        _load(archive.read(f"{prefix}/data.pkl"), _PLAIN)


@contextmanager
def _readable(path: Path, what: str = "") -> Iterator[None]:
    """CheckpointError for whatever damaged archives, opcodes and tensors raise: it has no common type."""
    try:
        yield
    except Exception as error:
        raise CheckpointError(path, f"cannot be read ({what}{error})", AGAIN) from error


class _Storage(NamedTuple):
    dtype: torch.dtype | None
    key: str
    numel: int


class _Stub:
    """What an unknown class becomes: it keeps what it is given and does nothing."""

    def __new__(cls, *args: object, **kwargs: object) -> Any:
        self = object.__new__(cls)
        vars(self).update(args=args, state=None, children=[])
        return self

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        vars(self)["state"] = state

    def __setitem__(self, key: object, value: object) -> None:
        vars(self)["children"].append({key: value})

    def extend(self, values: list[object]) -> None:
        vars(self)["children"].extend(values)


class _Dict(dict[Any, Any]):
    """An OrderedDict without its attributes (torch hangs `_metadata` on state dicts)."""

    def __init__(self, items: Any = ()) -> None:
        super().__init__((_checked_key(key), value) for key, value in items)

    def __setstate__(self, state: object) -> None:
        pass


class _Lazy(_Stub):
    """A tensor that is not read yet: a strided view of a storage."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def __new__(cls, storage: object, offset: object, shape: Any, strides: Any, *rest: object) -> Any:
        self = super().__new__(cls)
        if not isinstance(storage, _Storage) or max(len(shape), len(strides)) > MAX_DIMENSIONS:
            raise ValueError("malformed tensor")
        if not all(_is_count(n) for n in (offset, *shape, *strides)):
            raise ValueError("malformed tensor")
        vars(self).update(storage=storage, offset=offset, shape=tuple(shape), strides=tuple(strides))
        return self


class Key:
    """A record that may be a key of a dictionary: its class checks the state from which its hash is computed."""


class _Parameter(_Stub):
    def __new__(cls, data: object, *rest: object) -> Any:
        return data


_KNOWN: dict[str, type] = {
    "collections.OrderedDict": _Dict,
    "torch._utils._rebuild_tensor": _Lazy,
    "torch._utils._rebuild_tensor_v2": _Lazy,
    "torch._utils._rebuild_parameter": _Parameter,
}


class _Plain(dict[str, Any]):
    """What tensors and plain containers are made of; ValueError for any other class."""

    def get(self, path: str, default: Any = None) -> Any:
        if path not in _KNOWN and not (path.startswith("torch.") and path.endswith("Storage")):
            raise ValueError(f"it holds a {path}")
        return _KNOWN.get(path)


_PLAIN = _Plain()


class _Objects(PythonUnpickler):
    """Builds tensors not yet read, plain containers, and stubs.

    It is Python's own reader in Python, because that in C hashes any key: of some, a few bytes take for ever.
    """

    def __init__(self, data: bytes, classes: Mapping[str, Any]) -> None:
        super().__init__(io.BytesIO(data))
        self.classes = classes

    def check_keys(self) -> None:
        for key in self.stack[::2]:
            _checked_key(key)

    def load_setitem(self) -> None:
        _checked_key(self.stack[-2])
        super().load_setitem()

    def load_setitems(self) -> None:
        self.check_keys()
        super().load_setitems()

    def load_dict(self) -> None:
        self.check_keys()
        super().load_dict()

    dispatch: ClassVar[dict[int, Any]] = PythonUnpickler.dispatch | {
        pickle.SETITEM[0]: load_setitem, pickle.SETITEMS[0]: load_setitems, pickle.DICT[0]: load_dict,
    }  # fmt: skip

    def find_class(self, module: str, name: str) -> type:
        path = f"{module}.{name}"
        return self.classes.get(path) or type(name, (_Stub,), {"path": path})

    def persistent_load(self, pid: Any) -> _Storage:
        _, kind, key, _, numel = pid
        if not isinstance(key, str) or not _is_count(numel):
            raise ValueError("malformed storage")
        return _Storage(_DTYPES.get(getattr(kind, "path", "")), key, numel)


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < MAX_COUNT


def _checked_key(key: object) -> object:
    """A key of a dictionary that is hashed at once, and like no other; ValueError for others."""
    if not (isinstance(key, str | bytes | bool | float | Key | None) or _is_count(key)):
        raise ValueError(f"a key of type {type(key).__name__}, or a large number")
    return key


def _read_objects(archive: zipfile.ZipFile, prefix: str) -> Any:
    if f"{prefix}/byteorder" in archive.namelist() and archive.read(f"{prefix}/byteorder") != b"little":
        raise ValueError("byte order is not little")
    return _load(archive.read(f"{prefix}/data.pkl"), _KNOWN)


def _load(data: bytes, classes: Mapping[str, Any]) -> Any:
    for opcode, argument, _ in pickletools.genops(data):
        large = isinstance(argument, int) and abs(argument) >= 2**63
        memo = "PUT" in opcode.name and int(argument or 0) > len(data)  # a table that long
        if memo or large or opcode.name.startswith("EXT") or opcode.name in UNUSED:
            raise ValueError(f"suspicious opcode {opcode.name}")
    return _Objects(data, classes).load()


def _check_archive(archive: zipfile.ZipFile, size: int) -> str:
    """The folder inside a torch zip; ValueError unless its entries are stored, distinct and fit the file."""
    entries = archive.infolist()
    if any(e.compress_type != zipfile.ZIP_STORED or e.compress_size != e.file_size for e in entries):
        raise ValueError("an entry is compressed")
    if sum(e.file_size for e in entries) > size or len({e.filename for e in entries}) < len(entries):
        raise ValueError("entries overlap")
    objects = [e for e in entries if e.filename.endswith("/data.pkl") and e.filename.count("/") == 1]
    if len(objects) != 1 or objects[0].file_size > MAX_OBJECTS_BYTES:
        raise ValueError("no data.pkl of reasonable size")
    return objects[0].filename.split("/")[0]


def _read_tensor(archive: zipfile.ZipFile, prefix: str, lazy: object) -> Tensor:
    if not isinstance(lazy, _Lazy):
        raise ValueError("not a tensor")
    (dtype, key, total), numel = lazy.storage, math.prod(lazy.shape)
    if dtype is None:
        raise ValueError("not a floating-point tensor")
    reach = lazy.offset + sum((n - 1) * step for n, step in zip(lazy.shape, lazy.strides, strict=True)) + 1
    entry = archive.NameToInfo.get(f"{prefix}/data/{key}")
    if entry is None or entry.file_size != total * dtype.itemsize:
        raise ValueError(f"its {total} numbers are not in the file")
    if not 0 < numel <= total or reach > total:
        raise ValueError(f"shape {list(lazy.shape)} does not fit its {total} numbers")
    flat = torch.frombuffer(bytearray(archive.read(entry)), dtype=dtype)
    return flat.as_strided(lazy.shape, lazy.strides, lazy.offset)
