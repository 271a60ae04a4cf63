"""Segments of recordings as vectors: one per layer, for the segment as it is and under each change of the sound.

Shapes: N samples, n segments, L layers, P width of a pooled segment, m recordings.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mert.audio.find import audio_under
from mert.audio.recording import SILENT_RANGE
from mert.collection.index import directions
from mert.errors import AudioError, UsageError
from mert.files import sha256_file
from mir_benchmarks.statistics import Jackknife
from mir_benchmarks.tasks.run import model_of
from probes.encoders import Encoder, MertEncoder
from probes.features.clips import Clip
from probes.features.cutting import NEARLY_S, SHORTEST_S, ClipWindows
from probes.results import library_versions

SCHEMA = 1
SEGMENT_S = 3.0
CLEAN = "clean"

Change = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]  # (wave_N, rate_hz, random) -> wave
OnProgress = Callable[[], None]  # called after each recording


@dataclass(frozen=True)
class AudioFile:
    """A recording: its name without the folders of this machine, its path and the SHA-256 of its bytes."""

    name: str
    path: Path
    sha256: str


@dataclass(frozen=True)
class Segments:
    """Vectors [n, L, P] of segments by change (`clean` among them), and the recording that each segment belongs to.

    `recordings` have name, sha256, seconds and number of segments. `left_out` maps recordings without a segment to the
    reason; those that could not be read are `failed`.
    """

    vectors: dict[str, np.ndarray]
    owner_n: np.ndarray
    recordings: list[dict[str, Any]]
    left_out: dict[str, str]
    failed: tuple[str, ...]


def audio_files(inputs: Sequence[Path]) -> tuple[list[AudioFile], dict[str, str]]:
    """Recordings among files and folders; and names of copies, which are left out, with the reason.

    AudioError for a file that cannot be read, UsageError where there is none.
    """
    named: list[tuple[str, Path]] = []
    for given in inputs:
        files = audio_under(given, Counter()) if given.is_dir() else [given]
        named += [(path.relative_to(given).as_posix() if given.is_dir() else path.name, path) for path in files]
    known: dict[str, AudioFile] = {}
    left_out = {}
    for name, path in named:
        try:
            sha256 = sha256_file(path)
        except OSError as error:
            raise AudioError(path, f"cannot be read ({error.strerror})", "check the path and permissions") from None
        if sha256 in known:
            left_out[name] = f"the same file as {known[sha256].name}"
        else:
            known[sha256] = AudioFile(name, path, sha256)
    if not known:
        raise UsageError("AUDIO", "there are no recordings", "give audio files, or folders of them")
    return list(known.values()), left_out


def cut(wave_N: np.ndarray, rate_hz: int, segment_s: float, only_whole: bool) -> list[np.ndarray]:
    """Segments that do not overlap and are not silent; the rest is dropped.

    A recording shorter than a segment is one of its own length (at least 1 s), or none if `only_whole`.

    >>> wave = np.sin(np.arange(75))
    >>> [len(part) for part in cut(wave, 10, 3.0, False)], [len(part) for part in cut(wave[:20], 10, 3.0, False)]
    ([30, 30], [20])
    >>> cut(wave[:20], 10, 3.0, True), cut(np.ones(75), 10, 3.0, True)
    ([], [])
    """
    min_s = segment_s if only_whole else min(segment_s, SHORTEST_S)
    parts = (wave_N[first:end] for first, end in ClipWindows(segment_s, tail="drop").spans(len(wave_N), rate_hz))
    return [part for part in parts if len(part) >= (min_s - NEARLY_S) * rate_hz and np.ptp(part) >= SILENT_RANGE]


def embed_segments(
    encoder: Encoder,
    files: Sequence[AudioFile],
    changes: Mapping[str, Change] | None = None,
    segment_s: float = SEGMENT_S,
    only_whole: bool = False,
    on_progress: OnProgress = lambda: None,
) -> Segments:
    """Embed each segment as it is and under each change; recordings that cannot be used are left out."""
    rate_hz = encoder.facts.sample_rate
    names: dict[str, Change] = {CLEAN: lambda wave_N, rate_hz, random: wave_N} | dict(changes or {})
    vectors: dict[str, list[np.ndarray]] = {name: [] for name in names}
    recordings: list[dict[str, Any]] = []
    left_out: dict[str, str] = {}
    failed: list[str] = []
    owners: list[int] = []
    for file in files:
        try:
            wave_N = Clip(file.name, file.path).read(rate_hz)
        except AudioError as error:
            left_out[file.name] = error.reason.replace(str(file.path), file.name)  # decoders quote paths
            failed.append(file.name)
            continue
        segments = cut(wave_N, rate_hz, segment_s, only_whole)
        for name, change in names.items():
            # Randomness depends on the recording and the number of the segment alone.
            random = [np.random.default_rng([int(file.sha256[:8], 16), i]) for i in range(len(segments))]
            changed = (change(part_N, rate_hz, rng) for part_N, rng in zip(segments, random, strict=True))
            vectors[name] += encoder.pooled([part_N.astype(np.float32) for part_N in changed])
        if segments:
            owners += [len(recordings)] * len(segments)
            facts = {"seconds": round(len(wave_N) / rate_hz, 3), "segments": len(segments)}
            recordings.append({"name": file.name, "sha256": file.sha256} | facts)
        else:
            left_out[file.name] = f"no segment of {segment_s:g} s with sound" if only_whole else "too short, or silent"
        on_progress()
    stacked = {name: np.stack(vectors_n).astype(np.float64) for name, vectors_n in vectors.items() if vectors_n}
    return Segments(stacked, np.array(owners, int), recordings, left_out, tuple(failed))


def around_mean(vectors_nP: np.ndarray, clean_nP: np.ndarray) -> np.ndarray:
    """Vectors minus the mean of the clean segments, scaled to unit length.

    Means over time share a large common component: without the subtraction the cosine of any two sounds is near 1.
    """
    return directions(vectors_nP, clean_nP.mean(axis=0))


def over_recordings(values_n: np.ndarray, owner_n: np.ndarray, span: tuple[float, float]) -> dict[str, Any]:
    """Mean over recordings of the mean over its segments, with its 95 % interval over recordings, within `span`.

    One recording has no interval.

    >>> over_recordings(np.array([1.0, 1.0, 1.0, 0.0]), np.array([0, 0, 0, 1]), (0, 1))["mean"]
    0.5
    """
    by_m = np.bincount(owner_n, values_n) / np.bincount(owner_n)
    n = len(by_m)
    values = np.append(by_m.mean(), (by_m.sum() - by_m) / max(n - 1, 1))
    interval = Jackknife(values, n).interval(span) if n > 1 else None
    return {"mean": float(by_m.mean()), "ci95": interval and list(interval), "by_recording": by_m.tolist()}


def chosen_layer(encoder: Encoder, asked: str | None) -> str:
    """The layer that tables show: `asked`, else the recommended one, else the last; a baseline has only one."""
    if not isinstance(encoder, MertEncoder):
        return encoder.facts.layer_names[-1]
    if asked is None:
        return encoder.embedder.recommended_layer
    return encoder.embedder.names(encoder.embedder.settings(layers=[asked]))[0]


def measure(
    kind: str,
    changes: Mapping[str, Change],
    only_whole: bool,
    facts_of: Callable[[Segments, Sequence[str]], dict[str, Any]],
    encoders: Sequence[Encoder],
    files: Sequence[AudioFile],
    left_out: Mapping[str, str] | None = None,
    segment_s: float = SEGMENT_S,
    layer: str | None = None,
    on_progress: OnProgress = lambda: None,
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The JSON of a measurement on segments, and recordings that cannot be read.

    `facts_of` the segments and the names of the layers are what is measured of an encoder; tables show `layer`.
    """
    layers = [chosen_layer(encoder, layer) for encoder in encoders]  # refuses unknown layers before any work
    models = []
    for encoder, shown in zip(encoders, layers, strict=True):
        encoder.identify()
        segments = embed_segments(encoder, files, changes, segment_s, only_whole, on_progress)
        counts = {"n_segments": len(segments.owner_n), "n_recordings": len(segments.recordings)}
        facts = facts_of(segments, encoder.facts.layer_names)
        models.append({"model": model_of(encoder), "layer": shown} | counts | facts)
    return {
        "format": f"mert-{kind}", "schema": SCHEMA, "segment_s": segment_s, "recordings": segments.recordings,
        "left_out": dict(left_out or {}) | segments.left_out, "models": models, "versions": library_versions(),
    }, segments.failed  # fmt: skip


def label(measured: Mapping[str, Any]) -> str:
    """Name and layer of a measured model; a baseline has a single layer of its own name."""
    name, layer = str(measured["model"]["name"]), str(measured["layer"])
    return name if layer == name else f"{name}, {layer}"
