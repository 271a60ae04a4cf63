"""MUSDB18: stereo mixtures and their four stems, which sum to them sample by sample."""

from dataclasses import dataclass, field

import numpy as np

from mir_benchmarks.datasets.splits import musdb_validation
from mir_benchmarks.suite.facts import AUDIBLE, part_share
from mir_benchmarks.suite.names import artists, title
from mir_benchmarks.suite.plans import CorpusPlan, corpus_rng, first_score
from mir_benchmarks.suite.sizes import Extent
from mir_benchmarks.suite.studio import ROLES, SYNTHETIC, Studio
from mir_benchmarks.synth.band import Band, hire, render_band
from mir_benchmarks.synth.banks import banks_of
from mir_benchmarks.synth.effects import Finish, drawn_finish, finish_of, produce
from mir_benchmarks.synth.files import encode
from mir_benchmarks.synth.render import render
from mir_benchmarks.synth.score import STEMS, Score
from mir_benchmarks.synth.seeds import stream
from mir_benchmarks.synth.styles import STYLES

RATE_HZ = 44_100
PAN = {"vocals": 0.1, "drums": 0.2, "bass": 0.1, "other": 0.5}  # at most, either way
PEAK = 0.9
DRUMMED = [style for style in STYLES if style != "classical"]


@dataclass(frozen=True)
class Track:
    """A folder of five files."""

    folder: str
    score: Score = field(repr=False)

    @property
    def seconds(self) -> float:
        return self.score.seconds

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(f"{self.folder}/{name}.wav" for name in ("mixture", *STEMS))

    def encode(self) -> dict[str, bytes]:
        stems = self.stems()
        waves = {"mixture": sum(stems.values(), np.zeros(1, np.int16)), **stems}
        return {f"{self.folder}/{name}.wav": encode(wave_NC, RATE_HZ, "wav") for name, wave_NC in waves.items()}

    def stems(self) -> dict[str, np.ndarray]:
        """Int16 [N, 2], of which the sum is in range."""
        finish = self.finish()
        purpose, seed, index = self.score.seed
        sides = (self.score.seed, (purpose, seed, index ^ 1 << 31))  # one room, recorded at two places
        stereo = {}
        for name, dry in self.dry().items():
            channels = [produce(wave_N, finish, side, RATE_HZ, room=True, eq=True)
                        for wave_N, side in zip(dry, sides, strict=True)]  # fmt: skip
            stereo[name] = np.stack(channels, axis=1)
        gain = np.float32(PEAK * 32767 / float(np.abs(sum(stereo.values())).max()))
        return {name: np.round(wave_NC * gain).astype(np.int16) for name, wave_NC in stereo.items()}

    def dry(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Left and right channel of each stem, before the room."""
        rng = stream(self.score.seed, "room", 9)
        stereo = {}
        for name, wave_N in render(self.score, RATE_HZ).items():
            pan = float(rng.uniform(-PAN[name], PAN[name]))
            gains = np.float32(np.cos(np.pi / 4 * (1 + pan))), np.float32(np.sin(np.pi / 4 * (1 + pan)))
            stereo[name] = (wave_N * gains[0], wave_N * gains[1])
        return stereo

    def finish(self) -> Finish:
        """Room and equaliser."""
        return finish_of(self.score)


@dataclass(frozen=True)
class PlayedTrack(Track):
    """A track of which sampled instruments play all stems but the voice."""

    band: Band = field(repr=False)

    def dry(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        stems = render_band(self.score, self.band, RATE_HZ, mono=False)
        return {name: (wave_NC[:, 0], wave_NC[:, 1]) for name, wave_NC in stems.items()}

    def finish(self) -> Finish:
        return drawn_finish(self.score.seed)


def plan(seed: int, extent: Extent, studio: Studio = SYNTHETIC) -> CorpusPlan:
    """In all clips all four stems sound; some of the official validation names are among train."""
    rng = corpus_rng("musdb18", seed)
    names = artists(rng)
    titles = {"train": [], "valid": sorted(musdb_validation())[: extent.valid], "test": []}
    tracks: list[Track] = []
    for item, split in enumerate(extent.splits):
        score = first_score("musdb18", seed, item, extent.seconds, is_full, style=DRUMMED[item % len(DRUMMED)],
                           vocals=True)  # fmt: skip
        name = titles[split].pop(0) if titles[split] else f"{next(names)} - {title(rng)}"
        folder = f"{'test' if split == 'test' else 'train'}/{name}"
        if studio.sampled:
            tracks.append(PlayedTrack(folder, score, hire(score, banks_of(ROLES[split]))))
        else:
            tracks.append(Track(folder, score))
    return CorpusPlan(tuple(tracks), {}, {"musdb18": extent.counts})


def is_full(score: Score) -> bool:
    """Someone sings, drums, plays the bass, and there is more besides."""
    stems = {part.stem for i, part in enumerate(score.parts) if part_share(score, i) > 2 * AUDIBLE}
    return len(stems) == 3 and bool(score.hits)
