"""Embedder: files, arrays and streams of any length and rate in, Features out.

Shapes: B windows of a batch, N samples, L layers, T frames, D model width.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mert.audio.contents import Block
from mert.audio.recording import RESAMPLER, ArrayRecording, Recording, Source, as_float, bits_of_block
from mert.embedding import batching
from mert.embedding.batching import End, Frames, R, Settings, Window
from mert.embedding.features import Features, Pool, Pooling, Provenance
from mert.embedding.windows import Clock, Span, Windowing
from mert.errors import AudioError, CheckpointError, OutputError
from mert.inference.onnx_runner import OnnxRunner
from mert.models.interface import Network, NetworkConfig
from mert.models.onnx import OnnxModel
from mert.weights.networks import is_exported, load_network
from mert.weights.registry import ModelInfo

if TYPE_CHECKING:
    from mert.inference.runner import Runner

VERSION = version("mert-hub")
CGROUP = Path("/sys/fs/cgroup")  # of a container
Layers = str | int | Sequence[str | int]


@dataclass(frozen=True, kw_only=True)
class EmbedOptions:
    """What features to extract and how, as `Embedder.embed` explains; `batch_size` is a number of windows or "auto"."""

    layers: Layers = "all"
    pool: Pool = None
    window: float | str | None = None
    hop: float | None = None
    dtype: str = "auto"
    batch_size: int | str = "auto"
    max_seconds: float | None = None


class Embedder:
    """A MERT ready to use: `embed`, `embed_many`, `stream`. `mert.load` returns one.

    `sample_rate` is in Hz (recordings at other rates are resampled), `frame_rate` in frames per second; `dim` is the
    width of a frame. `layer_names` are `embed` (the encoder's input), `layer01`, ...; `recommended_layer` is that of
    the registry, otherwise the last.

    >>> import numpy as np, mert
    >>> m = mert.random_model("nano")
    >>> features = m.embed(np.sin(np.arange(44_100) / 10), sr=44_100, layers=[-1])
    >>> features.values.shape, features.layers
    ((1, 72, 256), ('layer06',))
    """

    def __init__(
        self, model: Network | OnnxModel, info: ModelInfo, sha256: str, device: str = "auto",
        centres: Mapping[str, np.ndarray] | None = None,
    ) -> None:  # fmt: skip
        self.runner = OnnxRunner(model, device) if isinstance(model, OnnxModel) else torch_runner(model, device)
        self.model: Any = self.runner.model  # a module of torch, or the graph of one
        self.device, self.info = self.runner.device, info
        self._identity, self._checksum = (self.runner.weights_state(), sha256), self._sums()
        self._places: list[int] = []  # of the weights in memory, at which `_look` looks
        self._look()
        self._centres, self._centred = dict(centres or {}), sha256
        self.clock = Clock.of(model.config)
        self.sample_rate, self.frame_rate = model.config.sample_rate, model.config.frame_rate
        self.layer_names, self.dim = model.config.layer_names, model.config.dim
        self.recommended_layer = info.recommended_layer or self.layer_names[-1]

    def __repr__(self) -> str:
        size, (first, *_, last) = f"{self.info.n_params / 1e6:.1f} M parameters", self.layer_names
        rates = f"{self.sample_rate} Hz, {self.frame_rate:g} frames/s"
        return f"Embedder({self.info.name}: {size}, {rates}, {first} to {last}, {self.device})"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled, copied and hashed by configuration and weights: what is prepared for speed is made again.

        A graph goes by the folder that it was read from.
        """
        if isinstance(self.model, OnnxModel):
            return reopened, (self.model.source, self.info, self.sha256, self._centres)
        self.look_again()
        weights = {name: tensor.detach().cpu().numpy() for name, tensor in self.model.state_dict().items()}
        return restored, (
            self.model.config, weights, self.info, self.sha256, str(self.device),
            self._centres if self.sha256 == self._centred else None,
        )  # fmt: skip

    @property
    def sha256(self) -> str:
        """The identity of the weights: that of their file, or of their values once they have changed in memory."""
        state = self.runner.weights_state()
        if state != self._identity[0]:
            from mert.weights.checkpoints import digest

            self._identity = state, digest(self.model)
        return self._identity[1]

    def look_again(self) -> str:
        """`sha256`, after reading every weight: changes through `.data` or numpy leave no other trace.

        Before recordings are embedded a sample of the weights is looked at, which shows most of them.

        What was prepared of the weights for speed is made again if they have changed.
        """
        current = self._sums()
        if current != self._checksum:
            from mert.weights.checkpoints import digest

            self._checksum = current
            self.runner.forget()
            self._identity = self.runner.weights_state(), digest(self.model)
        return self.sha256

    def _look(self) -> None:
        """`look_again` if a sample of the weights has changed; before recordings are embedded, as it costs little."""
        if isinstance(self.model, OnnxModel):
            return
        from mert.weights.checkpoints import Glance

        places = [place for place, _ in self.runner.weights_state()]
        if places != self._places:
            self._places, self._glance = places, Glance(self.model)
        elif self._glance.has_changed():
            self.look_again()

    def _sums(self) -> tuple[int, ...]:
        """Sums that differ once the weights have changed; a graph's do not."""
        if isinstance(self.model, OnnxModel):
            return ()
        from mert.weights.checkpoints import checksum

        return checksum(self.model)

    def centre(self, layer: str) -> np.ndarray | None:
        """The mean vector [D] of a layer over music at large, if it came with these weights: see `mert.Index`."""
        return self._centres.get(layer) if self.sha256 == self._centred else None

    @property
    def window_s(self) -> float:
        """Seconds of a default window: the model's training context."""
        return float(self.model.config.window_s)

    def embed(
        self, source: Source | Any, *, sr: int | None = None, layers: Layers = "all", pool: Pool = None,
        window: float | str | None = None, hop: float | None = None, dtype: str = "auto",
        max_seconds: float | None = None,
    ) -> Features:  # fmt: skip
        """Features of one recording: a path, bytes, binary file, or an array with its rate `sr`.

        `layers` are names or integers (0 = embed, negatives from the end), "all", "last" or "recommended"; `window`
        is seconds (default: the training context) or "whole"; `hop` is seconds between windows (default: a window);
        `dtype` is float32, bfloat16, float16, int8, or "auto": bfloat16 if the hardware supports it natively and the
        model tolerates it, otherwise float32. Values are float32 in any case. Raises AudioError for recordings that
        cannot be used, OutputError for results over half of the free memory, TypeError for an array without `sr`; a
        UserWarning names a recording of which sound is missing, or whose level is wrong (`meta["warnings"]`).
        CONTRIBUTING.md says what a window reads.
        """
        settings = self.settings(
            layers=layers, pool=pool, window=window, hop=hop, dtype=dtype, max_seconds=max_seconds
        )  # fmt: skip
        recording = self._recording(source, sr)
        if pool is None:
            self._refuse_too_long(recording, settings)
        return next(self.features(iter([recording]), settings, warn=True))

    def embed_many(
        self, items: Iterable[Source | tuple[Any, int]], *, layers: Layers = "all", pool: Pool = None,
        window: float | str | None = None, hop: float | None = None, dtype: str = "auto",
        batch_size: int | str = "auto", errors: Literal["raise", "skip"] = "raise",
    ) -> Iterator[Features]:  # fmt: skip
        """Features of each path or (array, sr), in input order; windows of neighbours share batches.

        The features of a recording do not depend on its neighbours: 1e-5 relative to the layer's rms, in float32. With
        `errors="skip"` a recording that cannot be used is left out with a UserWarning; otherwise it raises AudioError.
        A damaged recording is embedded as far as it goes, with a UserWarning, as is one whose level is wrong.
        """
        if errors not in ("raise", "skip"):
            raise ValueError(f'errors is "raise" or "skip", not {errors!r}')
        if isinstance(items, str | bytes):
            raise TypeError("embed_many takes a list of recordings; for one there is embed")
        settings = self.settings(layers=layers, pool=pool, window=window, hop=hop, dtype=dtype, batch_size=batch_size)
        recordings = (self._recording(*i) if isinstance(i, tuple) else self._recording(i, None) for i in items)
        return self.features(recordings, settings, skip=errors == "skip", warn=True)

    def encode(
        self, items: Iterable[Source | Any], *, sr: int | None = None, layer: str | int = "recommended",
        dtype: str = "auto", batch_size: int | str = "auto",
    ) -> np.ndarray:  # fmt: skip
        """One vector per recording, float32 [n, D]: the mean over time of one layer; `sr` is the rate of arrays.

        >>> import numpy as np, mert
        >>> mert.random_model("nano").encode(np.random.default_rng(0).normal(size=(3, 8_000)) / 10, sr=24_000).shape
        (3, 256)
        """
        sources = items if sr is None else ((item, sr) for item in items)
        many = self.embed_many(sources, layers=[layer], pool="mean", dtype=dtype, batch_size=batch_size)
        return np.array([features.values[0] for features in many], np.float32).reshape(-1, self.dim)

    def stream(
        self, blocks: Iterable[np.ndarray], *, sr: int, layers: Layers = "all", window: float | str | None = None,
        hop: float | None = None, dtype: str = "auto",
    ) -> Iterator[Features]:  # fmt: skip
        """Features window by window from blocks [N] or [N, C], as they come: together equal to those of `embed`."""
        settings = self.settings(layers=layers, window=window, hop=hop, dtype=dtype, batch_size=1)
        settings = replace(settings, read_ahead=False)
        recording = StreamRecording(blocks, sr)
        frames = self.frames(recording, settings)
        return (self._wrapped(values_LTD, span.keep_from, recording, settings) for span, values_LTD in frames)

    def settings(self, options: EmbedOptions = EmbedOptions(), **changes: Any) -> Settings:
        """Options (with changes) checked and resolved for this model; ValueError for what it does not offer."""
        options = replace(options, **changes)
        if options.pool is not None:
            Pooling(options.pool)
        dtype = self.runner.precision(options.dtype)
        windowing = Windowing.of(self.clock, self.window_s, options.window, options.hop)
        size = options.batch_size
        if size == "auto":
            size = batching.auto_batch_size(self.runner, self.clock, windowing)
        elif not isinstance(size, int) or size < 1:
            raise ValueError(f'batch_size is a positive integer or "auto", not {size!r}')
        layers = self._layer_numbers(options.layers)
        return Settings(layers, windowing, options.pool, dtype, size, options.max_seconds)

    def frames(self, recording: Recording, settings: Settings) -> Iterator[tuple[Span, np.ndarray]]:
        """Float32 frames [L, T, D] of one recording, window by window, in constant memory."""
        for piece in self._pieces(iter([recording]), settings):
            if isinstance(piece, Frames):
                yield piece.span, piece.values_LTD

    def features(
        self, recordings: Iterator[Recording], settings: Settings, skip: bool = False, warn: bool = False
    ) -> Iterator[Features]:
        """Features of each recording in turn, pooled where the settings say so.

        `skip` leaves out unusable ones with a UserWarning; `warn` gives one for each with something wrong.
        """
        parts: list[np.ndarray] = []
        pooled = Pooling(settings.pool) if settings.pool else None
        limit = free_memory() / 2
        for piece in self._pieces(recordings, settings, skip):
            recording = piece.recording
            if isinstance(piece, End) and piece.error:
                warnings.warn(f"left out: {piece.error}", stacklevel=2)
                pooled, parts = Pooling(settings.pool) if settings.pool else None, []
            elif isinstance(piece, Frames):
                if pooled:
                    pooled.add(piece.values_LTD)
                else:
                    parts.append(piece.values_LTD.copy())  # a view would keep its whole batch
                    refuse_too_large(sum(part.nbytes for part in parts), limit, recording)
            else:
                if warn and recording.warnings and (recording.damaged or not recording.silent):
                    state = " is damaged" if recording.damaged else ""
                    warnings.warn(f"{recording.name}{state}: {'; '.join(recording.warnings)}", stacklevel=2)
                if pooled and settings.pool:
                    yield Features(pooled.result(), None, self.names(settings), self.meta(recording, settings))
                    pooled = Pooling(settings.pool)
                else:
                    yield self._wrapped(np.concatenate(parts, axis=1), 0, recording, settings)
                    parts = []

    def _pieces(self, recordings: Iterator[R], settings: Settings, skip: bool = False) -> Iterator[Frames[R] | End[R]]:
        """The frames and ends of recordings; unless `skip`, the error of one is raised, and nothing more is read."""
        self._look()

        def items() -> Generator[Window[R] | End[R]]:
            for recording in recordings:
                for item in batching.windows(recording, self.clock, settings):
                    yield item
                    if isinstance(item, End) and item.error and not skip:
                        return

        with closing(batching.computed(items(), self.runner, settings)) as pieces:
            for piece in pieces:
                if isinstance(piece, End) and piece.error and not (skip and isinstance(piece.error, AudioError)):
                    raise piece.error
                yield piece

    def provenance(self, settings: Settings) -> Provenance:
        """What must agree for features to be comparable."""
        frames, hop = settings.windowing.frames, settings.windowing.hop
        normalize: bool = self.model.config.normalize
        return Provenance(self.sha256, frames, hop, normalize, settings.dtype, RESAMPLER, self.sample_rate)

    def meta(self, recording: Recording, settings: Settings) -> dict[str, Any]:
        """`meta` of the features of a recording that has been read."""
        frames, hop = settings.windowing.frames, settings.windowing.hop
        return {
            "model": self.info.name,
            "weights_sha256": self.sha256,
            "source": recording.name,
            "seconds": recording.seconds,
            "silent": recording.silent,
            "warnings": recording.warnings,
            # As `window=` and `hop=` would ask for them, in seconds.
            "window": "whole" if frames is None else self.clock.n_samples(frames) / self.sample_rate,
            "hop": None if hop is None else hop / self.frame_rate,
            **asdict(self.provenance(settings)),
            "frame_rate": self.frame_rate,
            "pool": settings.pool,
            "version": VERSION,
            "runtime": self.runner.name,
        }

    def names(self, settings: Settings) -> tuple[str, ...]:
        """Names of the requested layers."""
        return tuple(self.layer_names[i] for i in settings.layers)

    def bytes_per_second(self, settings: Settings, bytes_per_value: int = 4) -> float:
        """Size of unpooled features of one second of audio."""
        return len(settings.layers) * self.dim * self.frame_rate * bytes_per_value

    def _wrapped(self, values_LTD: np.ndarray, start: int, recording: Recording, settings: Settings) -> Features:
        times = self.clock.times(start, start + values_LTD.shape[1])
        return Features(values_LTD, times, self.names(settings), self.meta(recording, settings))

    def _recording(self, source: Source | Any, sr: int | None) -> Recording:
        if isinstance(source, str | bytes | bytearray | memoryview | os.PathLike) or hasattr(source, "read"):
            if sr is not None:
                raise TypeError("sr= goes with an array; a file knows its own rate")
            return Recording(source)
        if sr is None:
            if isinstance(source, list | tuple):
                raise TypeError("embed takes one recording, such as a path; embed_many takes several, or (array, sr)")
            raise TypeError("an array needs its sample rate: embed(array, sr=44100)")
        return ArrayRecording(source, sr)

    def _layer_numbers(self, layers: Layers) -> tuple[int, ...]:
        names, n = self.layer_names, len(self.layer_names)
        known: dict[str | int, int] = {i: i % n for i in range(-n, n)} | {name: i for i, name in enumerate(names)}
        known |= {"last": n - 1, "recommended": known[self.recommended_layer]}
        if isinstance(layers, str | int):
            layers = names if layers == "all" else [layers]
        for layer in layers:
            if not isinstance(layer, str | int | np.integer) or isinstance(layer, bool) or layer not in known:
                choices = f"{', '.join(names)} (or 0 to {n - 1}, last, recommended)"
                raise ValueError(f"no layer {layer!r}: this model has {choices}")
        numbers = tuple(known[layer] for layer in layers)
        if not numbers:
            raise ValueError(f'layers is empty: name some of {", ".join(names)}, or "all"')
        if twice := sorted({names[i] for i in numbers if numbers.count(i) > 1}):
            raise ValueError(f"layers {list(layers)} hold {twice[0]} twice: name it once")
        return numbers

    def _refuse_too_long(self, recording: Recording, settings: Settings) -> None:
        """Refuse before the work starts; if the header announces too much, the recording is decoded to check."""
        rate, limit = self.bytes_per_second(settings), free_memory() / 2
        if settings.windowing.frames is None:
            rate += self.runner.activation_bytes(self.sample_rate)
        if recording.claimed_seconds() * rate > limit:
            refuse_too_large(recording.seconds_by_decoding(settings.max_seconds) * rate, limit, recording)


def restored(config: NetworkConfig, weights: dict[str, np.ndarray], *identity: Any) -> Embedder:
    """The Embedder that was pickled."""
    import torch

    from mert.weights.checkpoints import blank

    model = blank(config)
    model.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()}, assign=True)
    return Embedder(model, *identity)


def reopened(source: Path, info: ModelInfo, sha256: str, centres: Mapping[str, np.ndarray]) -> Embedder:
    """The Embedder of a graph that was pickled; CheckpointError if its folder now holds other weights."""
    network = load_network(source, with_torch=None if is_exported(source) else False)
    if network.sha256 != sha256:
        raise CheckpointError(source, f"sha256 is {network.sha256}, not {sha256} as before", "load the model again")
    return Embedder(network.at_rate(info.sample_rate).model, info, sha256, centres=centres)


def torch_runner(model: Any, device: str) -> Runner:
    """The runner of a module on a device, in evaluation mode and without gradients."""
    from mert.inference.runner import Runner, chosen_device

    place = chosen_device(device)
    return Runner(model.eval().requires_grad_(False).to(place), place)


class StreamRecording(ArrayRecording):
    """Blocks [N] or [N, C] from a microphone, a network or a generator, as one recording."""

    def __init__(self, blocks: Iterable[np.ndarray], rate_hz: int) -> None:
        super().__init__(np.zeros(0, np.float32), rate_hz, name="stream")
        self._blocks, self._bits = blocks, 0  # that integers of 32 bits seem to have

    def read(self) -> Iterator[Block]:
        for block in self._blocks:
            samples_NC = as_float(block, self.name, channels_last=True)
            if samples_NC.size:
                self._bits = max(self._bits, bits_of_block(block))
                yield Block(self.rate_hz, samples_NC)

    def _wrong_level(self) -> str:
        if 0 < self._bits < 32:  # the whole stream would be below -48 dB
            taken = "and are taken at the full scale of 32 bits, hence almost silent"
            return f"the 32-bit integers hold no more than {self._bits} bits, {taken}; give int16, or floats at -1 to 1"
        return super()._wrong_level()


def refuse_too_large(n_bytes: float, limit: float, recording: Recording) -> None:
    """OutputError for arrays over `limit` bytes, with the ways around it."""
    if n_bytes > limit:
        size = f"its features take {n_bytes / 2**30:.2f} GiB, over half of the free memory ({limit / 2**30:.2f} GiB)"
        remedy = 'ask for fewer layers (layers=[-1]), pool="mean", or use stream() or `mert embed`'
        raise OutputError(recording.name, size, remedy)


def free_memory() -> float:
    """Bytes of free memory: the smaller of the machine's and the container's; 4 GiB where both are unknown."""
    free = []
    with suppress(OSError, StopIteration), open("/proc/meminfo", encoding="ascii") as lines:
        free.append(next(1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable")))
    with suppress(OSError, ValueError, KeyError):  # ValueError: "max", no limit
        limit, used = (int((CGROUP / f"memory.{name}").read_text()) for name in ("max", "current"))
        facts = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
        free.append(float(limit - used + int(facts["inactive_file"])))  # what is cached of files gives way
    return min(free, default=4.0 * 2**30)
