"""Windows in, frames out: batches, normalisation and precision, the same whoever a window shares a batch with.

Shapes: B windows of a batch, N samples, L layers, T frames, D model width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from mert.audio import Recording
from mert.errors import MertError
from mert.features import Pool
from mert.model import Mert
from mert.windows import Clock, Span, Windowing, cut

Piece = tuple[Recording, Span | None, np.ndarray | None]  # a window or its frames; None marks a recording's end
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Settings:
    """What one call of `embed` was asked for, resolved."""

    layers: tuple[int, ...]
    windowing: Windowing
    pool: Pool
    dtype: str
    batch_size: int


class Forward:
    """A model on a device, fed with windows of recordings."""

    def __init__(self, model: Mert, device: torch.device) -> None:
        self.model, self.device = model, device
        self.clock = Clock.of(model.config)

    def pieces(
        self, recordings: Iterator[Recording], settings: Settings, max_seconds: float | None = None
    ) -> Iterator[Piece]:
        """Float32 frames [L, T, D] of each recording, window by window, in constant memory.

        `batch_size` windows are computed at a time, those of neighbouring recordings together. An error in one
        recording is raised after all that came before it was given.
        """
        waiting: list[Piece] = []
        error: Exception | None = None
        windows = self._windows(recordings, settings, max_seconds)
        while error is None:
            try:
                waiting.append(next(windows))
            except StopIteration:
                break
            except Exception as raised:
                error = raised
            if sum(wave is not None for _, _, wave in waiting) == settings.batch_size:
                yield from self._run(waiting, settings)
                waiting = []
        yield from self._run(waiting, settings)
        if error:
            raise error

    def auto_batch_size(self, windowing: Windowing) -> int:
        """As many windows as fill half a GiB on a CPU (more is not faster), 8 GiB on a GPU; fixed, so repeatable."""
        if windowing.frames is None:
            return 1
        window_bytes = self.activation_bytes(self.clock.n_samples(windowing.frames))
        budget, most = (8 << 30, 64) if self.device.type == "cuda" else (1 << 29, 8)
        return max(1, min(most, budget // window_bytes))

    def activation_bytes(self, n_samples: int) -> int:
        """Memory of a forward pass: three times the output of the first convolution, the largest by far."""
        return 3 * 4 * self.model.config.conv_dim * n_samples // self.model.config.conv_strides[0]

    def _windows(
        self, recordings: Iterator[Recording], settings: Settings, max_seconds: float | None
    ) -> Iterator[Piece]:
        for recording in recordings:
            blocks = recording.blocks(self.clock.rate_hz, max_seconds)
            for span, wave_N in cut(blocks, self.clock, settings.windowing, recording.name):
                yield recording, span, wave_N
            yield recording, None, None

    def _run(self, batch: list[Piece], settings: Settings) -> Iterator[Piece]:
        waves = [wave_N for _, _, wave_N in batch if wave_N is not None]
        states = iter(self._states(waves, settings)) if waves else iter(())
        for recording, span, wave_N in batch:
            if span is None or wave_N is None:
                yield recording, None, None
                continue
            values_LTD = next(states)[:, span.keep_from - span.start : span.keep_to - span.start]
            if not np.isfinite(values_LTD).all():
                raise MertError(recording.name, f"hidden states overflow in {settings.dtype}", "use dtype float32")
            yield recording, span, values_LTD

    @torch.inference_mode()
    def _states(self, waves: list[np.ndarray], settings: Settings) -> Iterator[np.ndarray]:
        """Hidden states [L, T, D] of each wave; shorter waves are padded, which the model does not notice."""
        if self.model.config.normalize:
            waves = [normalized(wave_N) for wave_N in waves]
        lengths = [len(wave_N) for wave_N in waves]
        wave_BN = np.zeros((len(waves), max(lengths)), np.float32)
        for row_N, wave_N in zip(wave_BN, waves, strict=True):
            row_N[: len(wave_N)] = wave_N
        ragged = min(lengths) < max(lengths)
        lengths_B = torch.tensor(lengths, device=self.device) if ragged else None
        half = settings.dtype != "float32"
        with torch.autocast(self.device.type, dtype=DTYPES[settings.dtype], enabled=half):
            wave = torch.from_numpy(wave_BN).to(self.device)
            states = self.model(wave, lengths_B, layers=settings.layers)
        states_LBTD = torch.stack([state.float() for state in states]).cpu().numpy()
        for row, length in enumerate(lengths):
            yield states_LBTD[:, row, : self.clock.n_frames(length)]


def normalized(wave_N: np.ndarray) -> np.ndarray:
    """Zero mean and unit (population) variance, as the published preprocessor does it.

    >>> normalized(np.array([1.0, 3.0], np.float32)).round(3)
    array([-1.,  1.], dtype=float32)
    """
    mean, var = wave_N.mean(dtype=np.float64), wave_N.var(dtype=np.float64)
    return ((wave_N - mean) / np.sqrt(var + 1e-7)).astype(np.float32)
