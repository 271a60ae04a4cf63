"""Source separation: segments and test songs are embedded once, a head per stem is fitted, songs are separated.

Shapes: S segments, J stems, C channels, N samples, F bins, T frames.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soxr

from mir_benchmarks.datasets.dataset import Dataset
from mir_benchmarks.tasks.kind import TaskProbe, digest
from probes.features.clips import Clip, wave_digest
from probes.features.matrix import FeatureMatrix
from probes.features.stores import FrameStore, layer_number
from probes.fit import Policy, Setting
from probes.metrics import STEMS
from probes.results import Outputs
from probes.separation.sdr import global_sdrs, ideal_masks, imported_museval, mixture_as_estimate, museval_sdrs
from probes.separation.stems import RATE_HZ, Stems, load_stems, segments
from probes.separation.unmix import Magnitudes, SeparationFit, fit_one, magnitudes, scratch, separate, song_masks

COLUMNS = tuple(f"sdr_{stem}" for stem in STEMS)
Sdrs = Callable[[np.ndarray, np.ndarray], np.ndarray]
SDRS: dict[str, Sdrs] = {"global": global_sdrs, "museval": museval_sdrs}
POOL_SEED = 1_234
SEGMENT_S = 6.0


@dataclass(frozen=True)
class Pool:
    """Segments of a split: their names, their mixtures as clips to embed, and magnitudes of all stems.

    `waves` are digests of the songs they were cut from, as the encoder takes them, `contents` those of all their stems;
    `sound` is the digest of the segments with all their stems.
    """

    names: tuple[str, ...]
    clips: tuple[Clip, ...]
    magnitudes: Magnitudes
    waves: dict[str, str]
    contents: dict[str, str]
    sound: str


@dataclass(frozen=True)
class StemHeads:
    """The four heads of one setting and their features; `score` is minus their mean validation loss."""

    heads: tuple[SeparationFit, ...]
    store: FrameStore

    @property
    def score(self) -> float:
        return -float(np.mean([head.valid_loss for head in self.heads]))

    @property
    def epoch(self) -> int:
        return max(head.epoch for head in self.heads)


class SeparationTask(TaskProbe[StemHeads]):
    """Four heads per setting, selected by validation loss, separate the test songs."""

    def clips(self) -> list[Clip]:
        self.sdrs: Sdrs = SDRS[self.protocol["sdr"]]
        if self.protocol["sdr"] == "museval":
            imported_museval()  # before the work, not after it
        self.matrix.folder.mkdir(parents=True, exist_ok=True)
        per_track = int(self.protocol["musdb_segments"])
        self.train, self.valid = (pool(self.dataset, name, per_track, self.matrix) for name in ("train", "valid"))
        self.waves = self.train.waves | self.valid.waves
        self.contents = self.train.contents | self.valid.contents
        test = self.dataset.split("test")
        self.songs = {item.id: partial(load_stems, item.audio) for item in test}
        self.on_message(f"{len(self.train.names)} and {len(self.valid.names)} segments, {len(self.songs)} songs")
        whole = (Clip(item.id, item.audio, partial(song_wave, item.audio)) for item in test)
        return [*self.train.clips, *self.valid.clips, *whole]

    def prepare(self) -> None:
        self.stores = self.frame_stores(self.train.names)
        self.policy = Policy(self.options.epochs(int(self.protocol["musdb_epochs"])), self.task.patience)
        self.hidden = int(self.protocol["musdb_hidden"])

    def fit(self, settings: Sequence[Setting]) -> list[StemHeads]:
        return [StemHeads(tuple(fit_one(
            self.stores[at.scaling], self.train.magnitudes, self.valid.magnitudes, target=target,
            layer=layer_number(self.matrix.layers, at.layer), lr=at.lr, seed=at.seed, hidden=self.hidden,
            policy=self.policy, device=self.options.device,
        ) for target in STEMS), self.stores[at.scaling]) for at in settings]  # fmt: skip

    def outputs(self, fitted: StemHeads) -> np.ndarray:
        rows = []
        for name, load in self.songs.items():
            song = load()
            masks = song_masks(fitted.heads, fitted.store, name, song.mixture_CN.shape[1])
            rows.append(self.sdrs(song.targets_JCN, separate(song.mixture_CN, masks)))
        return np.array(rows)

    def score(self, fitted: StemHeads, outputs_nC: np.ndarray) -> dict[str, Any]:
        test = dict(zip(COLUMNS, np.nanmean(outputs_nC, axis=0).tolist(), strict=True))
        return {"valid": {"loss": -fitted.score}, "test": test}

    def fingerprint(self) -> dict[str, Any]:
        ids = [*self.train.names, *self.valid.names, *self.songs]
        data = digest(self.matrix, (f"{name}:{self.matrix.entries[name].crc32};".encode() for name in ids))
        rules = repr((self.policy, self.hidden, 3))
        return {"data": data + self.train.sound + self.valid.sound, "rules": rules}

    @property
    def head(self) -> dict[str, Any]:
        return {
            "kind": "open-unmix", "hidden": self.hidden, "dropout": 0.4, "optimizer": "Adam", "segment_s": SEGMENT_S,
            "max_epochs": self.policy.max_epochs, "patience": list(self.policy.patience),
        }  # fmt: skip

    def result_outputs(self, outputs_SnC: np.ndarray) -> Outputs:
        return Outputs(np.array(list(self.songs)), np.zeros(0), outputs_SnC, COLUMNS, self.groups(self.songs))

    def notes(self, outputs_SnC: np.ndarray) -> list[str]:
        return [
            bounds(self.songs.values(), self.sdrs),
            *silent_stems(self.songs),
            "SDR at 24 kHz; trained on a fixed pool of segments, half of them remixed (MARBLE remixes anew each "
            "epoch); Wiener filter with one EM iteration, without a residual source",
            *([medians(outputs_SnC)] if self.protocol["sdr"] == "museval" else []),
        ]


def pool(dataset: Dataset, split: str, per_track: int, matrix: FeatureMatrix) -> Pool:
    """Segments of a split: train is half remixed, valid is not."""
    tracks = {item.id: partial(load_stems, item.audio) for item in dataset.split(split)}
    waves, contents = dict[str, str](), dict[str, str]()
    shortest, rate_hz = round(SEGMENT_S * RATE_HZ), matrix.encoder.facts.sample_rate
    for name, load in tracks.items():
        song = load()
        waves[name] = wave_digest(encoder_input(song.mixture_CN, rate_hz))  # as of the test songs in the matrix
        contents[name] = wave_digest(np.stack((song.mixture_CN, *song.targets_JCN)))
        shortest = min(shortest, song.mixture_CN.shape[1])
    cut = scratch((len(tracks) * per_track, 1 + len(STEMS), 2, shortest), matrix.folder)
    segments(list(tracks.values()), POOL_SEED, per_track, shortest / RATE_HZ, remix=split == "train", out=cut)
    names = tuple(f"{split}/{number:05d}" for number in range(len(cut)))
    clips = tuple(
        Clip(name, None, partial(encoder_input, wave_5CN[0]), hashlib.sha256(wave_5CN[0].tobytes()).hexdigest())
        for name, wave_5CN in zip(names, cut, strict=True)
    )
    sound = hashlib.sha256()
    for wave_5CN in cut:
        sound.update(wave_5CN.tobytes())
    return Pool(names, clips, magnitudes(cut, names, matrix.folder), waves, contents, sound.hexdigest())


def encoder_input(mixture_CN: np.ndarray, rate_hz: int) -> np.ndarray:
    """A stereo mixture as an encoder's input: mono, at its rate."""
    mono_N = mixture_CN.mean(axis=0, dtype=np.float32)
    return mono_N if rate_hz == RATE_HZ else np.asarray(soxr.resample(mono_N, RATE_HZ, rate_hz, quality="HQ"))


def song_wave(audio: Path, rate_hz: int) -> np.ndarray:
    """A song's mixture as an encoder's input."""
    return encoder_input(load_stems(audio).mixture_CN, rate_hz)


def silent_stems(songs: Mapping[str, Callable[[], Stems]]) -> list[str]:
    """A note on stems of test songs that are silent throughout: their SDR says little."""
    silent = [f"{stem} of {name}" for name, load in songs.items()
              for stem, target_CN in zip(STEMS, load().targets_JCN, strict=True) if not target_CN.any()]  # fmt: skip
    told = "the global SDR counts them, far below 0 dB, as in MARBLE; museval's leaves them out"
    return (
        [f"{len(silent)} stems of test songs are silent throughout: {'; '.join(silent[:5])}; {told}"] if silent else []
    )


def bounds(songs: Iterable[Callable[[], Stems]], sdrs: Sdrs) -> str:
    """A note on floor and ceiling, the mixture itself and ideal masks; one song in memory at a time."""
    floor, ceiling = [], []
    for load in songs:
        song = load()
        floor.append(sdrs(song.targets_JCN, mixture_as_estimate(song.mixture_CN)))
        ceiling.append(sdrs(song.targets_JCN, separate(song.mixture_CN, ideal_masks(song.targets_JCN))))
    low, high = (" ".join(f"{value:.2f}" for value in np.nanmean(values, axis=0)) for values in (floor, ceiling))
    return f"{', '.join(STEMS)}: the mixture itself gives {low} dB, ideal ratio masks {high} dB"


def medians(values_SnJ: np.ndarray) -> str:
    """A note with the median over songs, which is what is published of museval's SDR; our metrics are means."""
    values = " ".join(f"{value:.2f}" for value in np.nanmedian(values_SnJ, axis=1).mean(axis=0))
    return f"museval's own number is the median over songs: {values} dB for {', '.join(STEMS)}; the metrics are means"
