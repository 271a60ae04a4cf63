"""The errors that users see: each has a source, a reason and a remedy."""

import re
import sys
from importlib import import_module
from importlib.metadata import requires
from pathlib import Path
from typing import Any

AGAIN = "download the file again"  # the remedy for files of weights that are damaged


class MertError(Exception):
    """An error with its source (mostly a file), reason and remedy.

    >>> print(AudioError("song.wav", "the file is empty", "record it again"))
    song.wav: the file is empty; record it again
    """

    def __init__(self, source: str | Path, reason: str, remedy: str) -> None:
        self.source, self.reason, self.remedy = str(source), reason, remedy
        super().__init__(f"{self.source}: {reason}; {remedy}")

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        """Pickle with all three parts, for errors of worker processes."""
        return type(self), (self.source, self.reason, self.remedy)


class AudioError(MertError):
    """A recording cannot be read, or holds samples that no model accepts."""


class CheckpointError(MertError):
    """Weights or their configuration cannot be read, or are not what they claim to be."""


class OutputError(MertError):
    """A result cannot be written, or does not fit on the disk."""


class TrainingError(MertError):
    """Training cannot continue."""


class UsageError(MertError, ValueError):
    """Invalid usage of a command or an option: exit code 2."""


def need(module: str, extra: str, asked_for: str) -> Any:
    """Import an optional dependency; a MertError about `asked_for`, with the install line, if it is missing."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        missing = str(error.name).partition(".")[0]
        raise MertError(asked_for, f"{missing} is not installed", install(extra)) from None


def explained(error: ModuleNotFoundError, prefer: str = "probe") -> MertError | None:
    """The error of a package that an extra installs, where its module was imported without `need`; None for others.

    Of several extras that hold the package it names `prefer`, otherwise the first.

    >>> print(explained(ModuleNotFoundError(name="sklearn.metrics")))
    scikit-learn: is not installed; pip install -e ".[probe]"
    """
    module = str(error.name).partition(".")[0]
    if module == "torch":
        return MertError("torch", "is not installed, and without it models only embed", "pip install torch")
    package = {"sklearn": "scikit-learn", "scipy": "scikit-learn", "yaml": "pyyaml"}.get(module, module)
    lines = [re.match(r"([\w-]+).*extra == ['\"]([\w-]+)", line) for line in requires("mert-hub") or ()]
    extras = [line[2] for line in lines if line and line[1].lower() == package.lower()]
    if not extras:
        return None
    return MertError(package, "is not installed", install(prefer if prefer in extras else extras[0]))


def hidden_package() -> MertError | None:
    """The error of a package of ours that a folder of the same name hides; None if there is none."""
    root = Path(__file__).parents[1]
    for name in ("probes", "teachers", "mir_benchmarks"):
        places = [Path(place).resolve() for place in getattr(sys.modules.get(name), "__path__", ())]
        if places and (root / name).is_dir() and (root / name).resolve() not in places:
            return MertError(places[0], f"hides the package {name}, which mert needs", "rename it, or run elsewhere")
    return None


def install(extra: str) -> str:
    """The command that installs the packages of an extra, in a checkout or beside an installed wheel.

    >>> install("codecs")
    'pip install -e ".[codecs]"'
    """
    is_checkout = Path(__file__).parents[1].joinpath("pyproject.toml").exists()
    return f'pip install -e ".[{extra}]"' if is_checkout else f'pip install "mert-hub[{extra}]"'
