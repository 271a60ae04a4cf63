"""Windows in, frames out: batches, normalisation and precision, the same whoever a window shares a batch with.

Shapes: B windows of a batch, N samples, L layers, T frames, D model width.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch

from mert.audio.recording import Recording
from mert.embedding.features import Pool
from mert.embedding.windows import Clock, Span, Windowing, cut
from mert.errors import MertError
from mert.inference.fast import FastMert
from mert.inference.kernels import has_bfloat16
from mert.models.mert import Mert
from mert.models.waves import golden_wave, normalized

ROWS_ENOUGH = 3000  # frames of a batch that fill a CPU's matrix units
Piece = tuple[Recording | None, Span | None, np.ndarray | None]  # a window or its frames; without one, an end
DTYPES = ("auto", "float32", "bfloat16", "float16", "int8")
LEAST_COSINE = 0.999  # to float32, for a shorter type to be chosen by "auto"
T = TypeVar("T")


@dataclass(frozen=True)
class Settings:
    """What one call of `embed` was asked for, resolved."""

    layers: tuple[int, ...]
    windowing: Windowing
    pool: Pool
    dtype: str
    batch_size: int
    read_ahead: bool = True


class Forward:
    """A model on a device, fed with windows of recordings."""

    def __init__(self, model: Mert, device: torch.device) -> None:
        self.model, self.device = model, device
        self.clock = Clock.of(model.config)
        self._fast: dict[str, FastMert] = {}
        self._weights: tuple[tuple[int, int], ...] = ()
        self._auto = ""

    def pieces(
        self, recordings: Iterator[Recording | None], settings: Settings, max_seconds: float | None = None
    ) -> Generator[Piece]:
        """Float32 frames [L, T, D] of each recording, window by window, in constant memory.

        `batch_size` windows are computed at a time, those of neighbouring recordings together. None among the
        recordings comes back in its place. An error in one recording is raised after all that came before it was
        given; then nothing more is read.
        """
        waiting: list[Piece] = []
        error: Exception | None = None
        windows = self._windows(recordings, settings, max_seconds)
        if settings.read_ahead and self._has_a_core_to_spare():
            windows = read_ahead(windows, settings.batch_size)
        try:
            while error is None:
                try:
                    waiting.append(next(windows))
                except StopIteration:
                    break
                except Exception as raised:
                    error = raised
                if sum(wave is not None for _, _, wave in waiting) in (0, settings.batch_size):
                    yield from self._run(waiting, settings)
                    waiting = []
            yield from self._run(waiting, settings)
        finally:
            windows.close()
        if error:
            raise error

    def auto_batch_size(self, windowing: Windowing) -> int:
        """As many windows as make 3000 frames on a CPU (more is not faster), or fill 8 GiB of a GPU; repeatable."""
        if windowing.frames is None:
            return 1
        window_bytes = self.activation_bytes(self.clock.n_samples(windowing.frames))
        budget, most = (8 << 30, 64) if self.device.type == "cuda" else (1 << 29, 32)
        rows = max(1, ROWS_ENOUGH // windowing.frames) if self.device.type == "cpu" else most
        return max(1, min(most, rows, budget // window_bytes))

    def _has_a_core_to_spare(self) -> bool:
        """Whether a thread may decode beside this process's: taking a core from one of many makes the others wait."""
        return self.device.type != "cpu" or torch.get_num_threads() < (os.cpu_count() or 1)

    def activation_bytes(self, n_samples: int) -> int:
        """Memory of a forward pass: a block's activations, and on a GPU the outputs of the first convolution."""
        config = self.model.config
        block = 4 * self.clock.n_frames(n_samples) * (2 * config.ffn_dim + 8 * config.dim)
        first = 3 * 4 * config.conv_dim * n_samples // config.conv_strides[0] if self.device.type == "cuda" else 0
        return block + first

    def _windows(
        self, recordings: Iterator[Recording | None], settings: Settings, max_seconds: float | None
    ) -> Generator[Piece]:
        for recording in recordings:
            if recording is None:
                yield None, None, None
                continue
            blocks = recording.blocks(self.clock.rate_hz, max_seconds)
            for span, wave_N in cut(blocks, self.clock, settings.windowing, recording.name):
                yield recording, span, wave_N
            yield recording, None, None

    def _run(self, batch: list[Piece], settings: Settings) -> Iterator[Piece]:
        waves = [wave_N for _, _, wave_N in batch if wave_N is not None]
        states = iter(self._states(waves, settings)) if waves else iter(())
        for recording, span, wave_N in batch:
            if recording is None or span is None or wave_N is None:
                yield recording, None, None
                continue
            values_LTD = next(states)[:, span.keep_from - span.start : span.keep_to - span.start]
            if not np.isfinite(values_LTD).all():
                remedy = "check the weights" if settings.dtype == "float32" else "use dtype float32"
                raise MertError(recording.name, f"hidden states overflow in {settings.dtype}", remedy)
            yield recording, span, values_LTD

    @torch.inference_mode()
    def _states(self, waves: list[np.ndarray], settings: Settings) -> Iterator[np.ndarray]:
        """Hidden states [L, T, D] of each wave; shorter waves are padded, which the model does not notice."""
        lengths = [len(wave_N) for wave_N in waves]
        ragged = min(lengths) < max(lengths)
        if ragged and settings.dtype == "int8":  # which would take padding for what it scales its steps to
            for wave_N in waves:
                yield from self._states([wave_N], settings)
            return
        if self.model.config.normalize:
            waves = [normalized(wave_N) for wave_N in waves]
        wave_BN = np.zeros((len(waves), max(lengths)), np.float32)
        for row_N, wave_N in zip(wave_BN, waves, strict=True):
            row_N[: len(wave_N)] = wave_N
        lengths_B = torch.tensor(lengths, device=self.device) if ragged else None
        wave = torch.from_numpy(wave_BN)
        if self.device.type == "cuda":
            wave = wave.pin_memory()
        wave = wave.to(self.device, non_blocking=True)
        with whole_float32(self.device):
            states = self._fast_model(settings.dtype)(wave, lengths_B, settings.layers)
        states_LBTD = torch.empty(len(states), *states[0].shape)
        for place, state in zip(states_LBTD, states, strict=True):
            place.copy_(state)
        for row, length in enumerate(lengths):
            yield states_LBTD[:, row, : self.clock.n_frames(length)].numpy()

    def precision(self, dtype: str) -> str:
        """What is computed in where `dtype` is asked for; ValueError where it cannot be.

        "auto" is bfloat16 where the device computes in it by itself and this model bears it: on `golden_wave` the mean
        cosine to float32 is at least 0.999 in every layer. Else it is float32.
        """
        if dtype not in DTYPES:
            raise ValueError(f"dtype is one of {', '.join(DTYPES)}, not {dtype!r}")
        if dtype == "int8" and self.device.type != "cpu":
            raise ValueError(f"int8 runs on a CPU, not on {self.device}: give bfloat16")
        if dtype != "auto":
            return dtype
        self._notice_changed_weights()
        if not self._auto:
            self._auto = "bfloat16" if has_bfloat16(self.device.type) and self._bears("bfloat16") else "float32"
        return self._auto

    def _bears(self, dtype: str) -> bool:
        wave_BN = golden_wave(self.clock.rate_hz)[None].to(self.device)
        with whole_float32(self.device):
            exact = FastMert(self.model)(wave_BN)  # not kept, for want of use
        pairs = zip(exact, self._fast_model(dtype)(wave_BN), strict=True)
        cosines = [torch.cosine_similarity(exact, short.float(), dim=2).mean() for exact, short in pairs]
        return bool(torch.stack(cosines).min() >= LEAST_COSINE)  # also false for NaN

    def _fast_model(self, dtype: str) -> FastMert:
        """The model as `dtype` runs it: made when first asked for, and made anew when its weights have changed.

        (Not where they were changed through `.data`, which torch does not count.)
        """
        self._notice_changed_weights()
        if dtype not in self._fast:
            int8 = dtype == "int8"  # what that does not quantise is in the type that suits the CPU
            name = ("bfloat16" if has_bfloat16("cpu") else "float32") if int8 else dtype
            self._fast[dtype] = FastMert(self.model, getattr(torch, name), int8)
        return self._fast[dtype]

    def _notice_changed_weights(self) -> None:
        tensors = self.model.parameters()
        weights = tuple((tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version) for tensor in tensors)
        if weights != self._weights:
            self._fast, self._auto, self._weights = {}, "", weights


@contextmanager
def whole_float32(device: torch.device) -> Iterator[None]:
    """Float32 convolutions in float32: else a GPU keeps ten bits of each number in them (TF32)."""
    if device.type != "cuda":
        yield
        return
    convolutions: Any = torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before = convolutions.fp32_precision
    convolutions.fp32_precision = "ieee"
    try:
        yield
    finally:
        convolutions.fp32_precision = before


def read_ahead(items: Iterator[T], depth: int) -> Generator[T]:
    """The same items in the same order, up to `depth` of them made by a thread before they are asked for.

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
