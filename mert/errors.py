"""The errors users meet: each says what it was about, what is wrong, and what to do."""

from __future__ import annotations

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
        """Let the error travel whole between worker processes."""
        return type(self), (self.source, self.reason, self.remedy)


class AudioError(MertError):
    """A recording cannot be read, or holds what no model should be given."""


class CheckpointError(MertError):
    """Weights or their configuration cannot be read, or are not what they claim to be."""


class OutputError(MertError):
    """A result cannot be written, or would not fit."""


class UsageError(MertError):
    """A command was asked for something that cannot be meant."""


def need(module: str, extra: str, asked_for: str) -> Any:
    """Import an optional dependency; MertError about what was asked for, with the install line, where it is missing.

    >>> need("json", "probe", "labels").__name__
    'json'
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        missing = str(error.name).partition(".")[0]
        raise MertError(asked_for, f"{missing} is not installed", f'pip install -e ".[{extra}]"') from None
