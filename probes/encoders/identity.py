"""The identity of a Python function: a digest of its code and of everything that the code can reach."""

import hashlib
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch

WRAPPED = ("func", "args", "keywords", "__wrapped__")  # of functools
OURS = {"mert", "teachers", "probes", "mir_benchmarks"}  # installed, or a checkout
NOT_FOLLOWED = {*sys.stdlib_module_names, "numpy", "torch"}  # packages whose code is known by its names


def fingerprint(value: Any, data: bool = True, known: dict[int, tuple[str, Any]] | None = None) -> str:
    """64 hex digits of a function's code, constants, defaults, closure and globals, or of any other value.

    Of the user's own modules count the attributes that the code names, but not what is imported while a function runs.
    Arrays, tensors and containers count by their contents, objects by their attributes and the code of their class;
    functions and classes of other packages by their names. Without `data` only code counts, and not what closures,
    globals, defaults and attributes hold. `known` holds what is digested already, so that nothing is read twice and
    cycles end.

    >>> double, triple = ((lambda k: lambda x: k * x)(k) for k in (2, 3))
    >>> fingerprint(double) == fingerprint(triple), fingerprint([1, 2]) == fingerprint([1, 2])
    (False, True)
    """
    known = {} if known is None else known
    if id(value) not in known:
        known[id(value)] = "cycle", value
        sha = hashlib.sha256(f"{type(value).__module__}.{type(value).__qualname__}".encode())
        for part in parts(value, data):
            sha.update(b"/" + (part if isinstance(part, bytes) else fingerprint(part.value, data, known).encode()))
        known[id(value)] = sha.hexdigest(), value
    return known[id(value)][0]


class Inner:
    """A value within another, which is digested by itself."""

    def __init__(self, value: Any) -> None:
        self.value = value


def parts(value: Any, data: bool) -> Iterator[bytes | Inner]:
    """What a value consists of: bytes, and values within it."""
    if isinstance(value, torch.Tensor):
        dense = value.detach() if value.layout is torch.strided else value.detach().to_dense()
        flat = dense.cpu().contiguous().flatten()
        yield f"{value.dtype} {tuple(value.shape)}".encode() + flat.view(torch.uint8).numpy().tobytes()
    elif isinstance(value, np.ndarray) and value.dtype != object:
        yield f"{value.dtype} {value.shape}".encode() + value.tobytes()
    elif isinstance(value, CodeType):
        yield value.co_code + repr(value.co_names).encode()
        yield from map(Inner, value.co_consts)
    elif isinstance(value, FunctionType):
        yield from of_function(value, data)
    elif isinstance(value, MethodType):
        yield from (Inner(value.__func__), Inner(value.__self__))
    elif isinstance(value, type | ModuleType):
        yield f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', value.__name__)}".encode()
    elif isinstance(value, Mapping):
        for key in sorted(value, key=repr):
            yield from (repr(key).encode(), Inner(value[key]))
    elif isinstance(value, set | frozenset):
        yield repr(sorted(map(repr, value))).encode()
    elif isinstance(value, list | tuple | np.ndarray):
        yield from map(Inner, value)
    else:
        yield from of_object(value, data)


def of_function(function: FunctionType, data: bool) -> Iterator[bytes | Inner]:
    """Code, defaults, closure, and the globals that the code names, if the function is not of a known package."""
    yield f"{function.__module__}.{function.__qualname__}".encode()
    if is_known(function.__module__):
        return
    yield Inner(function.__code__)
    held: list[Any] = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    held += [cell.cell_contents for cell in function.__closure__ or () if cell != CellType()]
    held += named(names_in(function.__code__), function.__globals__)
    yield from (Inner(value) for value in held if data or callable(value))


def named(names: set[str], among: Mapping[str, Any], seen: set[str] | None = None) -> list[Any]:
    """What code reaches of globals by names, and of the modules among them; modules may hold each other."""
    seen = set() if seen is None else seen
    found = [among[name] for name in sorted(names & among.keys())]
    for module in found.copy():
        if isinstance(module, ModuleType) and is_own(module) and module.__name__ not in seen:
            seen.add(module.__name__)
            found += named(names, vars(module), seen)
    return found


def of_object(value: Any, data: bool) -> Iterator[bytes | Inner]:
    """What an object would be copied by, and the code of its class if that is not of a known package.

    Of objects without attributes, and of the standard library's, it is their `repr`.
    """
    kind = type(value)
    state = None if kind.__module__.partition(".")[0] in sys.stdlib_module_names else state_of(value)
    if state is None:
        words = repr(value)
        yield words.encode() if " at 0x" not in words else b""  # an address, which says nothing of the value
        yield from (Inner(getattr(value, name)) for name in WRAPPED if hasattr(value, name))
        return
    if data:
        yield Inner(state)
    for base in kind.__mro__:
        for name, member in sorted(vars(base).items() if not is_known(base.__module__) else ()):
            inner = getattr(member, "__func__", getattr(member, "fget", member))
            if isinstance(inner, FunctionType):
                yield from (name.encode(), Inner(inner))


def state_of(value: Any) -> Any:
    """The attributes of an object, by its own account where it has one; None where it has none."""
    if type(value).__reduce__ is not object.__reduce__:
        try:
            return value.__reduce__()
        except TypeError:  # it cannot be copied
            return getattr(value, "__dict__", None)
    return value.__getstate__()


def names_in(code: CodeType) -> set[str]:
    """Names that code uses, with those of functions defined within it."""
    inner = (names_in(constant) for constant in code.co_consts if isinstance(constant, CodeType))
    return set(code.co_names).union(*inner)


def is_own(module: ModuleType) -> bool:
    """Whether a module is the user's: what is installed may load its parts when they are first used."""
    if is_known(module.__name__) or module.__name__.partition(".")[0] in OURS:
        return False
    installed = {Path(sysconfig.get_path(name)).resolve() for name in ("purelib", "platlib")}
    file = getattr(module, "__file__", None)
    return file is None or installed.isdisjoint(Path(file).resolve().parents)


def is_known(module: str | None) -> bool:
    return str(module).partition(".")[0] in NOT_FOLLOWED
