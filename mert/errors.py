"""The errors that users see: each has a source, a reason and a remedy."""

from importlib import import_module
from pathlib import Path
from typing import Any


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


class UsageError(MertError, ValueError):
    """Invalid usage of a command or an option: exit code 2."""


def need(module: str, extra: str, asked_for: str) -> Any:
    """Import an optional dependency; a MertError about `asked_for`, with the install line, if it is missing."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        missing = str(error.name).partition(".")[0]
        raise MertError(asked_for, f"{missing} is not installed", install(extra)) from None


def install(extra: str) -> str:
    """The command that installs the packages of an extra.

    >>> install("codecs")
    'pip install -e ".[codecs]"'
    """
    return f'pip install -e ".[{extra}]"'
