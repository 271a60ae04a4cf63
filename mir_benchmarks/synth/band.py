"""Bands of sampled instruments: who plays the parts of a score, how, and the four stems of what they play.

Shapes: N samples, C = 2 channels.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mir_benchmarks.synth.banks import Stroke, play
from mir_benchmarks.synth.programs import DRUM_KEYS, DRUM_KITS, choices, octaves_into, range_of
from mir_benchmarks.synth.render import level, render_part
from mir_benchmarks.synth.score import STEMS, Note, Score
from mir_benchmarks.synth.seeds import stream

MIXED_BANKS = 0.3  # of the bands: instruments of several banks
SHORTEST_S = 0.06  # of a note that is played staccato
RING_S = 0.3  # of a drum: its key is released, which most kits ignore
HANDS_S = 0.004  # how far off the grid the drums are, at most


@dataclass(frozen=True)
class Instrument:
    """A player: `shift` in semitones, `pan` from -1 to 1, `velocity` of the softest and the loudest note of 127.

    `share` is the part of a note's length for which its key is held, `timing_s` the deviation of onsets. A note sounds
    from the sample of the key `borrowed` semitones below it, played faster: another timbre at the same pitch.
    """

    bank: str
    program: int
    shift: int = 0
    pan: float = 0.0
    velocity: tuple[float, float] = (40.0, 120.0)
    share: float = 1.0
    timing_s: float = 0.0
    cents: float = 0.0
    gain_db: float = 0.0
    borrowed: int = 0


@dataclass(frozen=True)
class Band:
    """An instrument for each part of a score (None: our synthetic voice sings), and a drum kit."""

    instruments: tuple[Instrument | None, ...]
    kit: Instrument

    @property
    def banks(self) -> tuple[str, ...]:
        """The names of the banks of all instruments and the kit."""
        return tuple(sorted({one.bank for one in (*self.instruments, self.kit) if one is not None}))

    def as_dict(self) -> dict[str, Any]:
        """Plain containers, ready for JSON."""
        return asdict(self)


def hire(score: Score, banks: Sequence[str], programs: Sequence[int | None] | None = None) -> Band:
    """The band that belongs to a score: its seed draws programs of each part's family (or `programs`), and manners.

    Parts of the family "voice" are sung.
    """
    rng = stream(score.seed, "band")
    bank, mixed = str(rng.choice(list(banks))), rng.random() < MIXED_BANKS
    cents = float(rng.normal(0, 6))  # of the whole band, and a little of each
    instruments: list[Instrument | None] = []
    for i, part in enumerate(score.parts):
        own = str(rng.choice(list(banks))) if mixed else bank
        drawn = int(rng.choice(choices(part))) if part.family != "voice" else 0
        manner = drawn_manner(rng, cents)
        if part.family == "voice":
            instruments.append(None)
            continue
        given = programs[i] if programs is not None else None
        program = drawn if given is None else given
        keys = [note.midi for note in score.notes if note.part == i]
        instruments.append(Instrument(own, program, octaves_into(range_of(program), keys), **manner))
    kit = int(rng.choice(DRUM_KITS[score.kit[0]]))
    gain_db = float(rng.uniform(-4, 3))
    return Band(tuple(instruments), Instrument(bank, kit, velocity=(30.0, 125.0), gain_db=gain_db))


def drawn_manner(rng: np.random.Generator, cents: float) -> dict[str, Any]:
    """How somebody plays: loud or soft, even or with contrast, legato or staccato, exactly or not, where they sit."""
    loud, contrast = float(rng.uniform(70, 122)), float(rng.uniform(15, 70))
    share = float(rng.choice((1.0, 0.97, 0.85, 0.6, 0.4), p=(0.35, 0.25, 0.2, 0.13, 0.07)))
    return {
        "velocity": (max(12.0, loud - contrast), loud), "share": share, "timing_s": float(rng.uniform(0, 0.012)),
        "pan": float(np.clip(rng.normal(0, 0.35), -0.9, 0.9)), "cents": cents + float(rng.normal(0, 3)),
        "gain_db": float(rng.uniform(-2.5, 2.5)),
    }  # fmt: skip


def strokes_of(score: Score, i_part: int, instrument: Instrument) -> list[Stroke]:
    """The keys that a player presses for a part; notes beyond the instrument's range move by octaves."""
    rng = stream(score.seed, "hands", i_part)
    low, high = range_of(instrument.program)
    soft, loud = instrument.velocity
    strokes = []
    for note in score.notes:
        if note.part != i_part:
            continue
        key = into(note.midi + instrument.shift, low, high) - instrument.borrowed
        late = float(np.clip(rng.normal(0, instrument.timing_s), -0.03, 0.03)) if instrument.timing_s else 0.0
        onset_s = max(0.0, note.onset_s + late)
        end_s = onset_s + max(SHORTEST_S, note.duration_s * instrument.share)
        strokes.append(Stroke(onset_s, end_s, key, hardness(note.velocity, soft, loud)))
    return strokes


def into(key: int, low: int, high: int) -> int:
    """The key, moved by octaves until it lies in the range, if the range has one of its class.

    >>> into(30, 55, 98), into(60, 55, 98)
    (66, 60)
    """
    while key < low and key + 12 <= high:
        key += 12
    while key > high and key - 12 >= low:
        key -= 12
    return key


def hardness(velocity: float, soft: float, loud: float) -> int:
    """A note's velocity between those of a player, from 1 to 127.

    >>> hardness(0.0, 40, 120), hardness(1.0, 40, 120)
    (40, 120)
    """
    return int(np.clip(round(soft + (loud - soft) * min(1.0, velocity)), 1, 127))


def drum_strokes(score: Score, kit: Instrument) -> list[Stroke]:
    rng = stream(score.seed, "hands", len(score.parts))
    soft, loud = kit.velocity
    strokes = []
    for hit in score.hits:
        onset_s = max(0.0, hit.onset_s + float(rng.uniform(-HANDS_S, HANDS_S)))
        strokes.append(Stroke(onset_s, onset_s + RING_S, DRUM_KEYS[hit.piece], hardness(hit.velocity, soft, loud)))
    return strokes


def render_band(score: Score, band: Band, rate_hz: int, *, mono: bool = True) -> dict[str, np.ndarray]:
    """The stems vocals, drums, bass and other, float32 [N], or [N, 2] if not `mono`; dry, silent where nobody plays."""
    n = round(score.seconds * rate_hz)
    stems = {name: np.zeros(n if mono else (n, 2), np.float32) for name in STEMS}
    for i, (part, instrument) in enumerate(zip(score.parts, band.instruments, strict=True)):
        notes = [note for note in score.notes if note.part == i]
        if notes:
            wave = sung_part(score, i, notes, rate_hz, mono) if instrument is None else \
                played_part(score, i, instrument, rate_hz, mono)  # fmt: skip
            stems[part.stem] += wave
    if score.hits:
        strokes = drum_strokes(score, band.kit)
        wave = play(band.kit.bank, band.kit.program, strokes, n, rate_hz, drums=True, mono=mono)
        stems["drums"] += level(wave, band.kit.gain_db)
    return stems


def sung_part(score: Score, i_part: int, notes: list[Note], rate_hz: int, mono: bool) -> np.ndarray:
    """A part by our synthetic voice, in the middle of the stage."""
    wave_N = render_part(score, i_part, notes, rate_hz)
    return wave_N if mono else np.repeat(wave_N[:, None], 2, axis=1)


def played_part(score: Score, i_part: int, instrument: Instrument, rate_hz: int, mono: bool) -> np.ndarray:
    """A part by a sampled instrument, at its level and place."""
    n = round(score.seconds * rate_hz)
    wave = play(instrument.bank, instrument.program, strokes_of(score, i_part, instrument), n, rate_hz,
                cents=instrument.cents + 100 * instrument.borrowed, mono=mono)  # fmt: skip
    wave = level(wave, score.parts[i_part].gain_db + instrument.gain_db)
    return wave if mono else wave * panning(instrument.pan)


def panning(pan: float) -> np.ndarray:
    """Gains of the left and the right channel: a balance that leaves the power as it is.

    >>> panning(0.0).tolist()
    [1.0, 1.0]
    """
    angle = np.pi / 4 * (1 + pan)
    return (np.sqrt(2) * np.array([np.cos(angle), np.sin(angle)])).astype(np.float32).round(6)
