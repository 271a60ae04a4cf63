"""Describer: an Embedder that also names what is in recordings, by heads of its own or of the user's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from mert.audio.recording import Source
from mert.describe.analysis import HeadSet, describe, load_heads
from mert.describe.description import Description
from mert.embedding import load as plain
from mert.embedding.embedder import Embedder
from mert.errors import MertError
from mert.weights.hub import heads_folder


class Describer(Embedder):
    """An `Embedder` with `describe`; `mert.load` returns one.

    `heads_folder` holds the heads that came with the weights, None if none did.
    """

    heads_folder: Path | None = None

    @classmethod
    def of(cls, embedder: Embedder, heads: Path | None) -> Describer:
        """The same embedder, able to describe."""
        describer = cls.__new__(cls)
        vars(describer).update(vars(embedder), heads_folder=heads)
        return describer

    def __reduce__(self) -> tuple[Any, ...]:
        return remade, (*super().__reduce__(), self.heads_folder)

    @cached_property
    def _own(self) -> HeadSet:
        """The heads that came with the weights."""
        return self.head_set()

    def head_set(self, folders: Sequence[str | Path] = ()) -> HeadSet:
        """The heads that came with the weights, and those in further folders; MertError if there are none at all.

        A head that was fitted on other weights, or on features of another kind, is a HeadError.
        """
        own = [self.heads_folder] if self.heads_folder else []
        if not (own or folders):
            remedy = "fit some on its features (mert probe fit), and give their folder (--heads DIR)"
            raise MertError(self.info.name, "comes without heads that describe", remedy)
        return HeadSet(load_heads([*own, *folders]), self)

    def describe(
        self, source: Source | Any, *, sr: int | None = None, every: float | None = None,
        heads: str | Path | Sequence[str | Path] | None = None, max_seconds: float | None = None,
    ) -> Description:  # fmt: skip
        """The description of one recording: a path, bytes, a binary file, or an array with its rate `sr`.

        One pass over it serves all heads: those that came with the weights, and those in the folder or folders
        `heads`. With `every`, sections of so many seconds are described, too. Raises AudioError for recordings that
        cannot be used, MertError for a model without heads.
        """
        folders = [heads] if isinstance(heads, str | Path) else list(heads or [])
        chosen = self.head_set(folders) if folders else self._own
        chosen.check()
        settings = replace(chosen.settings, max_seconds=max_seconds)
        return describe(chosen, self._recording(source, sr), settings, every)


def remade(make: Callable[..., Embedder], arguments: tuple[Any, ...], heads: Path | None) -> Describer:
    """The Describer that was pickled."""
    return Describer.of(make(*arguments), heads)


def load(name_or_dir: str | Path, revision: str | None = None, device: str = "auto") -> Describer:
    """A ready `Describer`: from a folder or weights file, a registered name, or any "org/name" on the hub.

    Registered models come at their pinned revision unless `revision` says otherwise. Without torch, and from a folder
    that `mert export --to onnx` wrote, onnxruntime computes. CheckpointError for unknown names, failed downloads, wrong
    hashes, and whatever `read_checkpoint` refuses.
    """
    embedder = plain.load(name_or_dir, revision, device)
    return Describer.of(embedder, heads_folder(name_or_dir, embedder.info))
