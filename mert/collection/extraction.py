"""Extraction from many recordings: an error of one of them stops none of the others.

Shapes: L layers, T frames, D model width.
"""

import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from typing import TypeVar

import numpy as np

from mert.audio.recording import Recording
from mert.embedding import batching
from mert.embedding.batching import End, Frames, Settings, Window
from mert.embedding.embedder import Embedder, EmbedOptions
from mert.errors import MertError, UsageError


class Extraction(Recording):
    """One recording of a job; subclasses say what becomes of its frames."""

    error: MertError | None = None

    def is_needed(self) -> bool:
        """Whether frames must be computed; called ahead of all else, perhaps from a thread that reads ahead."""
        return True

    def add(self, values_LTD: np.ndarray) -> None:
        """Take the frames of the next window."""
        raise NotImplementedError

    def finish(self) -> None:
        """Put the result in its place, once all frames were added or none are needed."""
        raise NotImplementedError

    def close(self) -> None:
        """Remove what is unfinished."""


E = TypeVar("E", bound=Extraction)


def extract(embedder: Embedder, settings: Settings, extractions: Iterable[E]) -> Generator[E]:
    """The extractions in order, each when it is finished or has its `error`; short recordings share batches.

    Ctrl-C takes effect between windows: raised within a decoder's callback it would be lost, and the file cut off.
    """
    current: E | None = None
    with deferred_interrupt() as stop_if_asked:
        items = _items(embedder, settings, extractions, stop_if_asked)
        try:
            with closing(batching.computed(items, embedder.runner, settings)) as pieces:
                for piece in pieces:
                    stop_if_asked()
                    current = piece.recording
                    if _take(piece):
                        current.close()
                        yield current
                        stop_if_asked()
        finally:
            if current is not None:
                current.close()


def resolve(embedder: Embedder, options: EmbedOptions) -> Settings:
    """`embedder.settings` of the options of a command; UsageError for those that the model does not offer."""
    try:
        return embedder.settings(options)
    except ValueError as error:
        raise UsageError(embedder.info.name, str(error), "see --help") from None


def _take(piece: Frames[E] | End[E]) -> bool:
    """Pass a piece to its extraction; returns whether that has now ended. Nothing follows its first error."""
    extraction = piece.recording
    if extraction.error:
        return False
    try:
        if isinstance(piece, Frames):
            extraction.add(piece.values_LTD)
            return False
        if piece.error:
            raise piece.error
        extraction.finish()
    except MertError as error:
        extraction.error = error
    except Exception as error:
        extraction.error = MertError(extraction.name, f"{type(error).__name__}: {error}", "leave it out")
    return True


def _items(
    embedder: Embedder, settings: Settings, extractions: Iterable[E], stop_if_asked: Callable[[], None]
) -> Generator[Window[E] | End[E]]:
    for extraction in extractions:
        stop_if_asked()
        try:
            if not extraction.is_needed():
                yield End(extraction)
                continue
        except Exception as error:
            yield End(extraction, error)
            continue
        with closing(batching.windows(extraction, embedder.clock, settings)) as windows:
            for item in windows:
                if extraction.error:  # nobody takes the rest
                    break
                yield item


@contextmanager
def deferred_interrupt() -> Iterator[Callable[[], None]]:
    """Within the block Ctrl-C is noted, and raised as KeyboardInterrupt by the function that the block receives.

    Without effect outside the main thread, and where the caller ignores or handles SIGINT.
    """
    interrupted = threading.Event()

    def stop_if_asked() -> None:
        if interrupted.is_set():
            raise KeyboardInterrupt

    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield stop_if_asked
        return
    signal.signal(signal.SIGINT, lambda *_: interrupted.set())
    try:
        yield stop_if_asked
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
