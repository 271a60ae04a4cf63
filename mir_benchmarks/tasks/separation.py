"""Separation: a pool of segments and the test songs embedded once, a head for each stem, songs taken apart and scored.

Shapes: S segments, J stems, C channels, N samples, F bins, T frames.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import soxr

from mir_benchmarks.datasets.dataset import Dataset
from mir_benchmarks.tasks.options import Evaluated, Options
from mir_benchmarks.tasks.registry import TaskSpec
from probes.features.clips import Clip, wave_digest
from probes.features.matrix import FeatureMatrix
from probes.features.scaling import ScaledFrames
from probes.features.stores import FrameStore, layer_number
from probes.fit import Policy
from probes.metrics import STEMS
from probes.results import Outputs
from probes.separation.sdr import global_sdrs, ideal_masks, imported_museval, mixture_as_estimate, museval_sdrs
from probes.separation.stems import RATE_HZ, Stems, load_stems, segments
from probes.separation.unmix import Magnitudes, SeparationFit, fit_one, magnitudes, scratch, separate, song_masks
from probes.sweep import Journal, Setting, sweep

COLUMNS = tuple(f"sdr_{stem}" for stem in STEMS)
SDRS = {"global": global_sdrs, "museval": museval_sdrs}
POOL_SEED = 1_234
SEGMENT_S = 6.0


@dataclass(frozen=True)
class Pool:
    """Segments of a split: their names, the mixtures as clips to embed, and the magnitudes to learn from.

    `waves` are the digests of the songs they were cut from, `sound` is that of the segments and all their stems.
    """

    names: tuple[str, ...]
    clips: tuple[Clip, ...]
    magnitudes: Magnitudes
    waves: dict[str, str]
    sound: str


@dataclass(frozen=True)
class Fitted:
    """The four heads of one setting; `score` is minus their mean validation loss."""

    heads: tuple[SeparationFit, ...]

    @property
    def score(self) -> float:
        return -float(np.mean([head.valid_loss for head in self.heads]))

    @property
    def epoch(self) -> int:
        return max(head.epoch for head in self.heads)


def separation_task(task: TaskSpec, dataset: Dataset, matrix: FeatureMatrix, options: Options) -> Evaluated:
    """Fit four heads at each point of the grid, choose by validation loss, and separate the test songs."""
    protocol = task.protocol(options.protocol)
    sdrs = SDRS[protocol["sdr"]]
    if protocol["sdr"] == "museval":
        imported_museval()  # before the work, not after it
    matrix.folder.mkdir(parents=True, exist_ok=True)
    train, valid = (pool(dataset, name, int(protocol["musdb_segments"]), matrix) for name in ("train", "valid"))
    songs = {item.id: partial(load_stems, item.audio) for item in dataset.split("test")}
    clips = [*train.clips, *valid.clips, *(Clip(item.id, item.audio, whole(item.audio))
             for item in dataset.split("test"))]  # fmt: skip
    options.say(f"{len(train.names)} and {len(valid.names)} segments, {len(songs)} songs")
    matrix.extract(clips, lambda made: options.heard(made, len(clips)))
    store: FrameStore = ScaledFrames(matrix, train.names) if options.standardize else matrix
    policy, hidden = Policy(options.epochs(int(protocol["musdb_epochs"])), task.patience), int(protocol["musdb_hidden"])

    def fit(settings: Sequence[Setting]) -> list[Fitted]:
        return [Fitted(tuple(fit_one(
            store, train.magnitudes, valid.magnitudes, target=target, layer=layer_number(matrix.layers, setting.layer),
            lr=setting.lr, seed=setting.seed, hidden=hidden, policy=policy, device=options.device,
        ) for target in STEMS)) for setting in settings]  # fmt: skip

    grid = options.grid(matrix.layers)
    total = len(list(grid.settings()))
    rules = {
        "data": digest(matrix, [clip.id for clip in clips]) + train.sound + valid.sound,
        "rules": repr((policy, hidden, options.standardize, 2)),
    }
    swept = sweep(grid, fit, Journal(options.journal, rules), 1, lambda row: options.fitted(row, total))
    outputs, seeds = [], []
    for seed, fitted in swept.heads.items():
        values = np.array([score(fitted, store, name, load(), sdrs) for name, load in songs.items()])
        outputs.append(values)
        test = dict(zip(COLUMNS, np.nanmean(values, axis=0).tolist(), strict=True))
        seeds.append({"seed": seed, "epoch": fitted.epoch, "valid": {"loss": -fitted.score}, "test": test})
    return Evaluated(
        [row.as_json() for row in swept.rows], swept.layer, swept.lr, seeds,
        Outputs(np.array(list(songs)), np.zeros(0), np.stack(outputs).astype(np.float32), COLUMNS),
        {"kind": "open-unmix", "hidden": hidden, "dropout": 0.4, "optimizer": "Adam", "segment_s": SEGMENT_S,
         "max_epochs": policy.max_epochs, "patience": list(policy.patience)},
        [bounds(songs.values(), sdrs),
         "SDR at 24 kHz; trained on a fixed pool of segments, half of them remixed (MARBLE remixes anew each epoch); "
         "Wiener filter with one EM iteration, without a residual source",
         *medians(protocol["sdr"], np.stack(outputs))],
        train.waves | valid.waves,
    )  # fmt: skip


def pool(dataset: Dataset, split: str, per_track: int, matrix: FeatureMatrix) -> Pool:
    """Segments of a split: train is half remixed, valid is not."""
    tracks = {item.id: partial(load_stems, item.audio) for item in dataset.split(split)}
    waves, shortest = {}, round(SEGMENT_S * RATE_HZ)
    for name, load in tracks.items():
        mixture_CN = load().mixture_CN
        waves[name] = wave_digest(heard(mixture_CN, matrix.encoder.facts.sample_rate))  # as the matrix has test songs
        shortest = min(shortest, mixture_CN.shape[1])
    cut = scratch((len(tracks) * per_track, 1 + len(STEMS), 2, shortest), matrix.folder)
    segments(list(tracks.values()), POOL_SEED, per_track, shortest / RATE_HZ, remix=split == "train", out=cut)
    names = tuple(f"{split}/{number:05d}" for number in range(len(cut)))
    clips = tuple(
        Clip(name, wave=partial(heard, wave_5CN[0]), fingerprint=hashlib.sha256(wave_5CN[0].tobytes()).hexdigest())
        for name, wave_5CN in zip(names, cut, strict=True)
    )
    sound = hashlib.sha256()
    for wave_5CN in cut:
        sound.update(wave_5CN.tobytes())
    return Pool(names, clips, magnitudes(cut, names, matrix.folder), waves, sound.hexdigest())


def heard(mixture_CN: np.ndarray, rate_hz: int) -> np.ndarray:
    """A stereo mixture as an encoder hears it: mono, at its rate."""
    mono_N = mixture_CN.mean(axis=0, dtype=np.float32)
    return mono_N if rate_hz == RATE_HZ else np.asarray(soxr.resample(mono_N, RATE_HZ, rate_hz, quality="HQ"))


def whole(audio: object) -> partial[np.ndarray]:
    """A song's mixture as an encoder hears it."""
    return partial(lambda path, rate_hz: heard(load_stems(path).mixture_CN, rate_hz), audio)


def score(fitted: Fitted, store: FrameStore, name: str, song: Stems, sdrs: object) -> np.ndarray:
    """[J] dB of one song."""
    masks = song_masks(fitted.heads, store, name, song.mixture_CN.shape[1])
    assert callable(sdrs)
    return np.asarray(sdrs(song.targets_JCN, separate(song.mixture_CN, masks)))


def bounds(songs: Iterable[Callable[[], Stems]], sdrs: object) -> str:
    """What doing nothing and knowing the answer give, as a note; one song in memory at a time."""
    assert callable(sdrs)
    floor, ceiling = [], []
    for load in songs:
        song = load()
        floor.append(sdrs(song.targets_JCN, mixture_as_estimate(song.mixture_CN)))
        ceiling.append(sdrs(song.targets_JCN, separate(song.mixture_CN, ideal_masks(song.targets_JCN))))
    told = [" ".join(f"{value:.2f}" for value in np.nanmean(values, axis=0)) for values in (floor, ceiling)]
    return f"{', '.join(STEMS)}: the mixture itself gives {told[0]} dB, ideal ratio masks {told[1]} dB"


def medians(kind: str, values_SnJ: np.ndarray) -> list[str]:
    """For museval a note with what is published there: the median over songs, where our metrics are means."""
    if kind != "museval":
        return []
    told = " ".join(f"{value:.2f}" for value in np.nanmedian(values_SnJ, axis=1).mean(axis=0))
    return [f"museval's own number is the median over songs: {told} dB for {', '.join(STEMS)}; the metrics are means"]


def digest(matrix: FeatureMatrix, ids: list[str]) -> str:
    """What the fits depend on besides the rules."""
    sums = "".join(f"{name}:{matrix.entries[name].crc32};" for name in ids)
    return hashlib.sha256((matrix.digest + sums).encode()).hexdigest()
