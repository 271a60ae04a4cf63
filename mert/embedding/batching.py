"""Windows of recordings in batches through a model: the same frames whatever a window shares its batch with.

Shapes: N samples, L layers, T frames, D model width.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from mert.audio.recording import Recording
from mert.embedding.features import Pool
from mert.embedding.windows import Clock, Span, Windowing, cut
from mert.errors import MertError

if TYPE_CHECKING:
    from mert.inference.onnx_runner import OnnxRunner
    from mert.inference.runner import Runner

MIN_FRAMES = 3000  # frames of a batch that fill a CPU's matrix units
T = TypeVar("T")
R = TypeVar("R", bound=Recording)


@dataclass(frozen=True)
class Settings:
    """Options of an embedding call, checked and resolved for one model on one device."""

    layers: tuple[int, ...]
    windowing: Windowing
    pool: Pool
    dtype: str
    batch_size: int
    max_seconds: float | None = None
    read_ahead: bool = True


@dataclass(frozen=True)
class Window(Generic[R]):
    """One window of a recording: its place among the frames, and its samples."""

    recording: R
    span: Span
    wave_N: np.ndarray


@dataclass(frozen=True)
class Frames(Generic[R]):
    """The frames [L, T, D], float32, that one window of a recording gives."""

    recording: R
    span: Span
    values_LTD: np.ndarray


@dataclass(frozen=True)
class End(Generic[R]):
    """The end of a recording: all its windows came before, or an error ended it."""

    recording: R
    error: Exception | None = None


def windows(recording: R, clock: Clock, settings: Settings) -> Generator[Window[R] | End[R]]:
    """The windows of a recording and its end, decoded as they are asked for."""
    try:
        blocks = recording.blocks(clock.rate_hz, settings.max_seconds)
        for span, wave_N in cut(blocks, clock, settings.windowing, recording.name):
            yield Window(recording, span, wave_N)
    except Exception as error:
        yield End(recording, error)
    else:
        yield End(recording)


def computed(
    items: Generator[Window[R] | End[R]], runner: Runner | OnnxRunner, settings: Settings
) -> Generator[Frames[R] | End[R]]:
    """The frames of windows of many recordings, in order and in constant memory, and the ends of these recordings.

    Windows of neighbouring recordings share batches of `settings.batch_size`. Where the model fails on a batch, its
    first recording ends with the error and the others are run again. An exception of `items` itself is raised after
    all that came before it.
    """
    failed: R | None = None
    with closing(items), closing(_batches(items, runner, settings)) as batches:
        for batch in batches:
            for piece in _run(batch, runner, settings):
                if piece.recording is not failed:
                    failed = piece.recording if isinstance(piece, End) and piece.error else failed
                    yield piece


def _batches(
    items: Generator[Window[R] | End[R]], runner: Runner | OnnxRunner, settings: Settings
) -> Generator[list[Window[R] | End[R]]]:
    """Lists of items with at most `batch_size` windows; an end with no window before it, or an error, ends one."""
    batch: list[Window[R] | End[R]] = []
    failure: Exception | None = None
    if settings.read_ahead and has_spare_core(runner):
        items = read_ahead(items, settings.batch_size)
    with closing(items):
        while True:
            try:
                batch.append(item := next(items))
            except StopIteration:
                break
            except Exception as raised:
                failure = raised
                break
            failed = isinstance(item, End) and item.error is not None
            if failed or sum(isinstance(each, Window) for each in batch) in (0, settings.batch_size):
                yield batch
                batch = []
    yield batch
    if failure:
        raise failure


def _run(
    batch: list[Window[R] | End[R]], runner: Runner | OnnxRunner, settings: Settings
) -> Iterator[Frames[R] | End[R]]:
    waves = [item.wave_N for item in batch if isinstance(item, Window)]
    try:
        states = iter(list(runner.states(waves, settings.dtype, settings.layers)) if waves else [])
    except Exception as error:
        first = next(item.recording for item in batch if isinstance(item, Window))
        yield End(first, error)
        yield from _run([item for item in batch if item.recording is not first], runner, settings)
        return
    for item in batch:
        if isinstance(item, End):
            yield item
            continue
        span = item.span
        values_LTD = next(states)[:, span.keep_from - span.start : span.keep_to - span.start]
        if np.isfinite(values_LTD).all():
            yield Frames(item.recording, span, values_LTD)
        else:
            remedy = "check the weights" if settings.dtype == "float32" else "use dtype float32"
            reason = f"hidden states overflow in {settings.dtype}"
            yield End(item.recording, MertError(item.recording.name, reason, remedy))


def auto_batch_size(runner: Runner | OnnxRunner, clock: Clock, windowing: Windowing) -> int:
    """As many windows as make 3000 frames on a CPU (more is not faster), or fill 8 GiB of a GPU; repeatable."""
    if windowing.frames is None:
        return 1
    window_bytes = runner.activation_bytes(clock.n_samples(windowing.frames))
    budget, limit = (8 << 30, 64) if runner.device.type == "cuda" else (1 << 29, 32)
    rows = max(1, MIN_FRAMES // windowing.frames) if runner.device.type == "cpu" else limit
    return max(1, min(limit, rows, budget // window_bytes))


def has_spare_core(runner: Runner | OnnxRunner) -> bool:
    """Whether a thread may decode beside this process: with all cores in use it would only slow the others down."""
    return runner.device.type != "cpu" or runner.threads < (os.cpu_count() or 1)


def read_ahead(items: Iterator[T], depth: int) -> Generator[T]:
    """The same items in the same order; a thread fetches up to `depth` of them before they are asked for.

    >>> list(read_ahead(iter("abc"), 2))
    ['a', 'b', 'c']
    """
    end: Any = object()
    with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as reader:
        waiting = deque(reader.submit(next, items, end) for _ in range(depth))
        try:
            while (item := waiting.popleft().result()) is not end:
                waiting.append(reader.submit(next, items, end))
                yield item
        finally:
            reader.shutdown(cancel_futures=True)
