"""Embedder: files, arrays and streams of any length and rate in, Features out.

Shapes: B windows of a batch, N samples, L layers, T frames, D model width.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mert.audio.recording import RESAMPLER, ArrayRecording, Recording, Source, as_float
from mert.embedding.features import Features, Pool, Pooling
from mert.embedding.forward import Forward, Piece, Settings
from mert.embedding.windows import Span, Windowing
from mert.errors import OutputError
from mert.models.mert import Mert
from mert.weights.registry import ModelInfo

Layers = str | int | Sequence[str | int]
VERSION = version("mert-hub")


class Embedder:
    """A MERT ready to use: `embed`, `embed_many`, `stream`. Made by `mert.load`.

    >>> import numpy as np, mert
    >>> m = mert.random_model("nano")
    >>> features = m.embed(np.sin(np.arange(44_100) / 10), sr=44_100, layers=[-1])
    >>> features.values.shape, features.layers
    ((1, 74, 256), ('layer06',))
    """

    def __init__(self, model: Mert, info: ModelInfo, sha256: str, device: str = "auto") -> None:
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = torch.device(device)
        self.model = model.eval().requires_grad_(False).to(self.device)
        self.info, self.sha256 = info, sha256
        self._forward = Forward(self.model, self.device)
        self.clock = self._forward.clock

    @property
    def sample_rate(self) -> int:
        """Hz; recordings at other rates are resampled."""
        return self.model.config.sample_rate

    @property
    def frame_rate(self) -> float:
        """Frames a second."""
        return self.model.config.frame_rate

    @property
    def layer_names(self) -> tuple[str, ...]:
        """`embed` (the encoder's input), `layer01`, ..."""
        return self.model.config.layer_names

    @property
    def dim(self) -> int:
        """Width of one frame."""
        return self.model.config.dim

    @property
    def window_s(self) -> float:
        """Seconds of a default window: the model's training context."""
        return self.model.config.window_s

    def embed(
        self,
        source: Source | Any,
        *,
        sr: int | None = None,
        layers: Layers = "all",
        pool: Pool = None,
        window: float | str | None = None,
        hop: float | None = None,
        dtype: str = "auto",
        max_seconds: float | None = None,
    ) -> Features:
        """Features of one recording: a path, bytes, binary file, or an array with its rate `sr`.

        `layers` are names or integers (0 = embed, negatives from the end) or "all"; `window` is seconds (default:
        the training context) or "whole"; `hop` seconds between windows (default: a window); `dtype` is float32,
        bfloat16, float16, int8, or "auto": bfloat16 where the device computes in it by itself and the model bears
        it, else float32. Values are float32 in any case. Raises AudioError for recordings that cannot be used,
        OutputError for results over half of the free memory, TypeError for an array without `sr`. CONTRIBUTING.md
        says what a window reads.
        """
        settings = self.settings(layers, pool, window, hop, dtype)
        recording = self._recording(source, sr)
        if pool is None:
            self._refuse_too_long(recording, settings, max_seconds)
        return next(self.features(iter([recording]), settings, max_seconds))

    def embed_many(
        self,
        items: Iterable[Source | tuple[Any, int]],
        *,
        layers: Layers = "all",
        pool: Pool = None,
        window: float | str | None = None,
        hop: float | None = None,
        dtype: str = "auto",
        batch_size: int | str = "auto",
    ) -> Iterator[Features]:
        """Features of each path or (array, sr), in input order; windows of neighbours share batches.

        What a recording gives does not depend on its neighbours: 1e-5 relative to the layer's rms, in float32.
        """
        if isinstance(items, str | bytes):
            raise TypeError("embed_many takes a list of recordings; for one there is embed")
        settings = self.settings(layers, pool, window, hop, dtype, batch_size)
        recordings = (self._recording(*i) if isinstance(i, tuple) else self._recording(i, None) for i in items)
        return self.features(recordings, settings)

    def stream(
        self,
        blocks: Iterable[np.ndarray],
        *,
        sr: int,
        layers: Layers = "all",
        window: float | str | None = None,
        hop: float | None = None,
        dtype: str = "auto",
    ) -> Iterator[Features]:
        """Features window by window from blocks [N] or [N, C], as they come: together equal to those of `embed`."""
        settings = replace(self.settings(layers, None, window, hop, dtype, batch_size=1), read_ahead=False)
        recording = StreamRecording(blocks, sr)
        frames = self.frames(recording, settings)
        return (self._wrapped(values_LTD, span.keep_from, recording, settings) for span, values_LTD in frames)

    def settings(
        self,
        layers: Layers = "all",
        pool: Pool = None,
        window: float | str | None = None,
        hop: float | None = None,
        dtype: str = "auto",
        batch_size: int | str = "auto",
    ) -> Settings:
        """Check and resolve the options of `embed`; ValueError says what is wrong with them."""
        if pool is not None:
            Pooling(pool)
        dtype = self._forward.precision(dtype)
        windowing = Windowing.of(self.clock, self.window_s, window, hop)
        if batch_size == "auto":
            batch_size = self._forward.auto_batch_size(windowing)
        elif not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f'batch_size is a positive integer or "auto", not {batch_size!r}')
        return Settings(self._layer_numbers(layers), windowing, pool, dtype, batch_size)

    def frames(
        self, recording: Recording, settings: Settings, max_seconds: float | None = None
    ) -> Iterator[tuple[Span, np.ndarray]]:
        """Float32 frames [L, T, D] of one recording, window by window, in constant memory."""
        for _, span, values_LTD in self._forward.pieces(iter([recording]), settings, max_seconds):
            if span is not None and values_LTD is not None:
                yield span, values_LTD

    def pieces(
        self, recordings: Iterator[Recording | None], settings: Settings, max_seconds: float | None = None
    ) -> Generator[Piece]:
        """(recording, span, frames) of many recordings, window by window, and (recording, None, None) where one ends.

        Windows of neighbours share batches; None among the recordings comes back in its place. The error of a
        recording is raised after all that came before it.
        """
        return self._forward.pieces(recordings, settings, max_seconds)

    def meta(self, recording: Recording, settings: Settings) -> dict[str, Any]:
        """Provenance of the features of a recording that has been read."""
        windowing = settings.windowing
        return {
            "model": self.info.name,
            "weights_sha256": self.sha256,
            "source": recording.name,
            "seconds": recording.seconds,
            "silent": recording.silent,
            "warnings": recording.warnings,
            "window": self._window_seconds(windowing),
            "hop": None if windowing.hop is None else windowing.hop / self.frame_rate,
            "window_frames": windowing.frames,
            "hop_frames": windowing.hop,
            "normalize": self.model.config.normalize,
            "dtype": settings.dtype,
            "resampler": RESAMPLER,
            "sample_rate": self.sample_rate,
            "frame_rate": self.frame_rate,
            "pool": settings.pool,
            "version": VERSION,
        }

    def names(self, settings: Settings) -> tuple[str, ...]:
        """Names of the layers asked for."""
        return tuple(self.layer_names[i] for i in settings.layers)

    def bytes_per_second(self, settings: Settings, bytes_per_value: int = 4) -> float:
        """Size of unpooled features of one second of audio."""
        return len(settings.layers) * self.dim * self.frame_rate * bytes_per_value

    def features(
        self, recordings: Iterator[Recording], settings: Settings, max_seconds: float | None = None
    ) -> Iterator[Features]:
        """Whole Features of each recording in turn, pooled where the settings say so."""
        pieces: list[np.ndarray] = []
        pooled = Pooling(settings.pool) if settings.pool else None
        limit = free_memory() / 2
        for recording, span, values_LTD in self._forward.pieces(recordings, settings, max_seconds):
            assert recording, "none is left out here"
            if span is not None and values_LTD is not None:
                if pooled:
                    pooled.add(values_LTD)
                else:
                    pieces.append(values_LTD.copy())  # a view would keep its whole batch
                    refuse_too_large(sum(piece.nbytes for piece in pieces), limit, recording)
            elif pooled and settings.pool:
                yield Features(pooled.result(), None, self.names(settings), self.meta(recording, settings))
                pooled = Pooling(settings.pool)
            else:
                yield self._wrapped(np.concatenate(pieces, axis=1), 0, recording, settings)
                pieces = []

    def _window_seconds(self, windowing: Windowing) -> float | str:
        """What `window=` would ask for these windows."""
        return "whole" if windowing.frames is None else self.clock.n_samples(windowing.frames) / self.sample_rate

    def _wrapped(self, values_LTD: np.ndarray, start: int, recording: Recording, settings: Settings) -> Features:
        times = self.clock.times(start, start + values_LTD.shape[1])
        return Features(values_LTD, times, self.names(settings), self.meta(recording, settings))

    def _recording(self, source: Source | Any, sr: int | None) -> Recording:
        if isinstance(source, str | bytes | bytearray | os.PathLike) or hasattr(source, "read"):
            if sr is not None:
                raise TypeError("sr= goes with an array; a file knows its own rate")
            return Recording(source)
        if sr is None:
            raise TypeError("an array needs its sample rate: embed(array, sr=44100)")
        return ArrayRecording(source, sr)

    def _layer_numbers(self, layers: Layers) -> tuple[int, ...]:
        names = self.layer_names
        if isinstance(layers, str | int):
            layers = names if layers == "all" else [layers]
        numbers = []
        for layer in layers:
            if isinstance(layer, str) and layer in names:
                numbers.append(names.index(layer))
            elif (
                isinstance(layer, int | np.integer)
                and not isinstance(layer, bool)
                and -len(names) <= layer < len(names)
            ):
                numbers.append(int(layer) % len(names))
            else:
                raise ValueError(f"no layer {layer!r}: this model has {', '.join(names)} (or 0 to {len(names) - 1})")
        if not numbers or len(set(numbers)) < len(numbers):
            raise ValueError(f"layers {list(layers)} are none, or hold one twice")
        return tuple(numbers)

    def _refuse_too_long(self, recording: Recording, settings: Settings, max_seconds: float | None) -> None:
        """Refuse before the work starts; a header that claims too much is checked by decoding."""
        rate, limit = self.bytes_per_second(settings), free_memory() / 2
        if settings.windowing.frames is None:
            rate += self._forward.activation_bytes(self.sample_rate)
        if recording.claimed_seconds() * rate > limit:
            refuse_too_large(recording.seconds_by_decoding(max_seconds) * rate, limit, recording)


class StreamRecording(ArrayRecording):
    """Blocks [N] or [N, C] from a microphone, a network or a generator, as one recording."""

    def __init__(self, blocks: Iterable[np.ndarray], rate_hz: int) -> None:
        super().__init__(np.zeros(0, np.float32), rate_hz, name="stream")
        self._blocks = blocks

    def read(self) -> Iterator[np.ndarray]:
        for block in self._blocks:
            samples_NC = as_float(block, self.name, channels_last=True)
            self.channels = samples_NC.shape[1]
            self._check_format(self)
            if len(samples_NC):
                yield samples_NC


def refuse_too_large(n_bytes: float, limit: float, recording: Recording) -> None:
    """OutputError for arrays over `limit` bytes, with the ways around it."""
    if n_bytes > limit:
        size = f"its features take {n_bytes / 2**30:.2f} GiB, over half of the free memory ({limit / 2**30:.2f} GiB)"
        remedy = 'ask for fewer layers (layers=[-1]), pool="mean", or use stream() or `mert embed`'
        raise OutputError(recording.name, size, remedy)


def free_memory() -> float:
    """Bytes of memory that can still be had: of the machine, and of the container; 4 GiB where neither tells."""
    found = []
    with suppress(OSError, StopIteration), open("/proc/meminfo", encoding="ascii") as lines:
        found.append(next(1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable")))
    with suppress(OSError, ValueError):  # ValueError: "max", no limit
        limit, used = (int(Path("/sys/fs/cgroup", f"memory.{name}").read_text()) for name in ("max", "current"))
        found.append(float(limit - used))
    return min(found, default=4.0 * 2**30)
