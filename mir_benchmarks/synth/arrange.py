"""Real compositions as scores: an excerpt, transposed, at another tempo with rubato, for other instruments.

Shapes: N notes.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mir_benchmarks.synth.compose import E, excerpt
from mir_benchmarks.synth.pieces import Piece, beat_quarters
from mir_benchmarks.synth.programs import FAMILIES, MELODIC, UNPITCHED, family_of, range_of
from mir_benchmarks.synth.score import Chord, Hit, Note, Part, Score
from mir_benchmarks.synth.seeds import Seed, stream
from mir_benchmarks.synth.theory import chord_classes, near, parse_numeral, voicing

WAYS = ("ensemble", "solo", "backed")
NOTES_HZ = (1.3, 6.0)  # a tempo is drawn so that the busiest part has so many notes a second
BPM = (42.0, 184.0)
ATTEMPTS, FEWEST_NOTES = 8, 5
ALIKE = 0.6  # of the ensembles: instruments of one kind, or those that often play together
# Who often plays together, from the highest part to the lowest.
CONSORTS = (
    (40, 40, 41, 42), (40, 41, 42, 43), (48,), (49,), (44,), (45,), (56, 56, 60, 57, 58), (61,), (73, 68, 71, 70),
    (71,), (64, 65, 66, 67), (74,), (73,), (52,), (53,), (19,), (16,), (20,), (0,), (1,), (6,), (7,), (4,), (5,), (11,),
    (12,), (24,), (25,), (26,), (46,), (21,), (80, 81, 88, 38), (89,), (40, 71, 0), (73, 40, 6), (68, 40, 19),
)  # fmt: skip
FAMILY_NAMES = {"piano": "keyboard", "strings": "string", "ensemble": "string", "pipe": "flute", "lead": "synth_lead",
                "pad": "synth_lead", "plucked": "guitar"}  # fmt: skip
BACKING = {"bass": (*FAMILIES["bass"], 43, 42, 58),
           "comp": (0, 1, 2, 4, 5, 6, 16, 19, 21, 24, 25, 26, 27, 46, 48, 89, 15, 105)}  # fmt: skip
TRIADS = {
    "major": {"I": 0.25, "IV": 0.1, "V": 0.15, "vi": 0.0, "ii": 0.0},
    "minor": {"i": 0.25, "iv": 0.05, "V": 0.1, "bVII": 0.05, "bIII": 0.05, "bVI": 0.0},
}


@dataclass(frozen=True)
class Tempo:
    """Seconds of quarters: an even pulse that a slow wave bends."""

    start: float  # the quarter at 0 s
    quarter_s: float
    depth: float = 0.0
    wave: float = 32.0  # its length in quarters
    phase: float = 0.0

    def at(self, quarter: np.ndarray) -> np.ndarray:
        """Seconds, which grow with the quarters as long as `depth` is below 1.

        >>> Tempo(2.0, 0.5).at(np.array([2.0, 4.0])).tolist()
        [0.0, 1.0]
        """
        turn = 2 * np.pi / self.wave
        bent = np.sin(turn * (quarter - self.start) + self.phase) - np.sin(self.phase)
        return self.quarter_s * (quarter - self.start + self.depth / turn * bent)


@dataclass(frozen=True)
class Arranged:
    """A score of a real composition, and the program of each of its parts."""

    score: Score
    programs: tuple[int, ...]


def arrange(
    piece: Piece, seed: Seed, seconds: float, way: str, *, rubato: bool | None = None, tonic: int | None = None
) -> Arranged:
    """An excerpt of `seconds`. `way`: all parts ("ensemble"), one of them ("solo"), or a tune with bass and chords.

    Transposed, at a tempo that suits the notes, repeated where it ends too soon. `rubato`: with (or without) it
    instead of as drawn; `tonic`: transposed to it. The same arguments give the same excerpt.
    """
    if way not in WAYS:
        raise ValueError(f"no way {way!r}: give one of {', '.join(WAYS)}")
    rng = stream(seed, "piece")
    shift, bpm = int(rng.integers(-6, 6)), drawn_bpm(piece, rng)
    shift = shift if tonic is None else (tonic - piece.tonic + 6) % 12 - 6
    part = int(rng.integers(piece.n_parts))
    beat = beat_quarters(*piece.metre)
    bent, depth = rng.random() < 0.5, float(rng.uniform(0.03, 0.12))
    depth = depth if (bent if rubato is None else rubato) else 0.0
    wave, phase = float(rng.uniform(10, 28)) * beat, float(rng.uniform(0, 2 * np.pi))
    for _ in range(ATTEMPTS):  # until there is enough to hear
        first = piece.beats[int(rng.integers(len(piece.beats)))][0] - float(rng.random()) * beat
        tempo = Tempo(first, 60 / bpm / beat, depth, wave, phase)
        notes = cut(piece, tempo, seconds, shift, part if way == "solo" else None, rng)
        if len(notes) >= min(FEWEST_NOTES, seconds):
            break
    beats = beats_within(piece, tempo, seconds)
    lines = backed(piece, notes, tempo, seconds, shift, rng) if way == "backed" else Lines(notes, [], [])
    n_parts = max(3 if way == "backed" else 1, 1 + max((note.part for note in lines.notes), default=0))
    programs = tuple(drawn_programs(lines.notes, n_parts, way, rng))
    score = Score(
        seed, float(seconds), piece.group, (piece.tonic + shift) % 12, piece.mode, round(bpm, 2), piece.metre, 0.0,
        (str(rng.choice(("acoustic", "brush", "disco", "drum_machine", "heavy"))), 0), parts_of(programs, way, rng), (),
        tuple(lines.chords), beats, tuple(sorted(lines.notes, key=lambda note: (note.onset_s, note.part, note.midi))),
        tuple(lines.hits),
    )  # fmt: skip
    return Arranged(score, programs)


def bend(score: Score) -> Score:
    """A composed score whose pulse slows and hurries in waves, with all that happens in it; its seed draws them."""
    rng = stream(score.seed, "piece")
    depth, wave = float(rng.uniform(0.03, 0.12)), float(rng.uniform(4, 12))
    tempo = Tempo(0.0, 1.0, depth, wave, float(rng.uniform(0, 2 * np.pi)))
    end_s = float(tempo.at(np.array(score.seconds)))
    # The waves must neither shorten the clip nor lengthen it: what sounds at its end is that of the score.
    scale = score.seconds / end_s

    def at(seconds: float) -> float:
        return float(tempo.at(np.array(seconds))) * scale

    def moved(event: E) -> E:
        onset_s = at(event.onset_s)
        return dataclasses.replace(event, onset_s=onset_s, duration_s=at(event.onset_s + event.duration_s) - onset_s)

    return dataclasses.replace(
        score, notes=tuple(map(moved, score.notes)), chords=tuple(map(moved, score.chords)),
        hits=tuple(dataclasses.replace(hit, onset_s=at(hit.onset_s)) for hit in score.hits),
        beats=tuple((at(time), position) for time, position in score.beats if at(time) < score.seconds),
    )  # fmt: skip


@dataclass(frozen=True)
class Lines:
    """What is played: notes by part, chords that are struck, drums."""

    notes: list[Note]
    chords: list[Chord]
    hits: list[Hit]


def drawn_bpm(piece: Piece, rng: np.random.Generator) -> float:
    """Beats a minute at which the busiest part plays a drawn number of notes a second."""
    low, high = NOTES_HZ
    notes_hz = low * (high / low) ** float(rng.random())
    quarters = piece.beats[-1][0] - piece.beats[0][0]
    busiest = max(len(np.unique(piece.onset_N[piece.part_N == part])) for part in range(piece.n_parts))
    return float(np.clip(60 * notes_hz * quarters / busiest / beat_quarters(*piece.metre), *BPM))


def loop_quarters(piece: Piece) -> float:
    """The length of a piece from its first beat to the one after its last."""
    return piece.beats[-1][0] + beat_quarters(*piece.metre) - piece.beats[0][0]


def rounds(piece: Piece, tempo: Tempo, seconds: float) -> list[float]:
    """By how many quarters the piece is moved each time that it is played within the clip."""
    loop, start = loop_quarters(piece), piece.beats[0][0]
    last = tempo.start + seconds / tempo.quarter_s * 1.2 + 2 * tempo.depth * tempo.wave
    first_round = math.floor((tempo.start - start) / loop) - 1
    return [k * loop for k in range(first_round, math.ceil((last - start) / loop) + 1)]


def cut(
    piece: Piece, tempo: Tempo, seconds: float, shift: int, part: int | None, rng: np.random.Generator
) -> list[Note]:
    """The notes of the excerpt; louder on bar lines and beats, in slow waves. One `part` alone becomes part 0."""
    positions = dict(piece.beats)
    period, angle = float(rng.uniform(3, 9)), float(rng.uniform(0, 2 * np.pi))
    notes = []
    for moved in rounds(piece, tempo, seconds):
        onset_N = tempo.at(piece.onset_N + moved)
        end_N = tempo.at(piece.onset_N + piece.duration_N + moved)
        wanted = (end_N > 0) & (onset_N < seconds) & (True if part is None else piece.part_N == part)
        for i in np.flatnonzero(wanted):
            position = positions.get(float(piece.onset_N[i]))
            accent = 0.15 if position == 1 else 0.06 if position else 0.0
            arc = 0.12 * math.sin(2 * math.pi * float(onset_N[i]) / period + angle)
            velocity = float(np.clip(0.6 + accent + arc + rng.normal(0, 0.06), 0.05, 1.0))
            own = 0 if part is not None else int(piece.part_N[i])
            duration_s = float(end_N[i] - onset_N[i])
            notes.append(Note(own, float(onset_N[i]), duration_s, int(piece.midi_N[i]) + shift, velocity))
    return list(excerpt(notes, seconds, 0.02, 0.12))


def beats_within(piece: Piece, tempo: Tempo, seconds: float) -> tuple[tuple[float, int], ...]:
    """(time, position in the bar) of the beats of the excerpt."""
    quarters = np.array([quarter for quarter, _ in piece.beats])
    found = []
    for moved in rounds(piece, tempo, seconds):
        times = tempo.at(quarters + moved)
        found += [(float(time), piece.beats[i][1]) for i, time in enumerate(times) if 0 <= time < seconds]
    return tuple(sorted(found))


def drawn_programs(notes: Sequence[Note], n_parts: int, way: str, rng: np.random.Generator) -> list[int]:
    """A program for each part: a consort, or any that can play most of the part's notes in some octave."""
    if way == "ensemble" and rng.random() < ALIKE:
        consort = CONSORTS[int(rng.integers(len(CONSORTS)))]
        heights = [np.mean([note.midi for note in notes if note.part == part] or [0]) for part in range(n_parts)]
        place = {part: rank for rank, part in enumerate(np.argsort(heights)[::-1])}
        return [consort[place[part] * len(consort) // n_parts] for part in range(n_parts)]
    programs = [any_program([note.midi for note in notes if note.part == part], rng) for part in range(n_parts)]
    if way == "backed":
        for part, role in ((1, "bass"), (2, "comp")):
            programs[part] = int(rng.choice(BACKING[role]))
    return programs


def any_program(keys: Sequence[int], rng: np.random.Generator) -> int:
    """A program whose range is as wide as the notes need; the families are equally frequent."""
    span = int(np.subtract(*np.percentile(keys, (95, 5)))) if len(keys) else 0
    families = list(FAMILIES)
    for _ in range(ATTEMPTS):
        of_family = FAMILIES[families[int(rng.integers(len(families)))]]
        program = int(rng.choice([program for program in of_family if program not in UNPITCHED]))
        low, high = range_of(program)
        if high - low >= span:
            return program
    return MELODIC[0]


def parts_of(programs: Sequence[int], way: str, rng: np.random.Generator) -> tuple[Part, ...]:
    """The players: their names for our families, and their levels."""
    parts = []
    for i, program in enumerate(programs):
        role = ("lead", "bass", "comp block", "lead2")[i] if way == "backed" else "lead" if i == 0 else f"voice {i + 1}"
        gm = family_of(program)
        below_db = {"bass": -1.0, "comp block": -6.0}.get(role, 0.0)
        gain_db = round(below_db + float(rng.uniform(-2, 2)), 2)
        parts.append(Part(role, "bass" if role == "bass" else "other", FAMILY_NAMES.get(gm, gm), 0, gain_db))
    return tuple(parts)


def backed(piece: Piece, tune: list[Note], tempo: Tempo, seconds: float, shift: int, rng: np.random.Generator) -> Lines:
    """A tune (part 0) with a bass (1), chords (2), at times a second player an octave away (3), and drums."""
    notes, chords, hits = list(tune), list[Chord](), list[Hit]()
    has_drums, doubled, octave = rng.random() < 0.5, rng.random() < 0.25, int(rng.choice((-12, 12)))
    tonic, beat_s = (piece.tonic + shift) % 12, tempo.quarter_s * beat_quarters(*piece.metre)
    for start_s, end_s, numeral in bars_with_chords(piece, tempo, seconds):
        above, quality = parse_numeral(numeral)
        root = (tonic + above) % 12
        chords.append(Chord(start_s, end_s - start_s, root, quality, numeral))
        n_beats = max(1, round((end_s - start_s) / beat_s))
        for i in range(n_beats):
            at_s, long_s = start_s + (end_s - start_s) * i / n_beats, (end_s - start_s) / n_beats
            loud = float(rng.uniform(0.6, 0.8)) + 0.15 * (i == 0)
            if i == 0 or (n_beats > 3 and i == n_beats // 2):
                bass = near(root, 38) if i == 0 else near((root + 7) % 12, 38)
                notes.append(Note(1, at_s, 0.9 * long_s, bass, loud))
            if i or n_beats == 1:
                notes += [Note(2, at_s, 0.8 * long_s, midi, 0.8 * loud) for midi in voicing(root, quality, 60)]
            if has_drums:
                piece_of_kit = "kick" if i == 0 else "snare" if i % 2 else "hat"
                hits += [Hit(at_s, piece_of_kit, loud), Hit(at_s, "hat", 0.6 * loud)]
                hits.append(Hit(at_s + 0.5 * long_s, "hat", 0.4 * loud))
    if doubled:
        notes += [dataclasses.replace(note, part=3, midi=note.midi + octave) for note in tune]
    within = list(excerpt(notes, seconds, 0.02, 0.12))
    return Lines(within, list(excerpt(chords, seconds)), [hit for hit in hits if 0 <= hit.onset_s < seconds])


def bars_with_chords(piece: Piece, tempo: Tempo, seconds: float) -> list[tuple[float, float, str]]:
    """(start, end, numeral) of each bar that sounds: the triad that most of its notes belong to."""
    starts = [quarter for quarter, position in piece.beats if position == 1]
    loop = loop_quarters(piece)
    found = []
    for moved in rounds(piece, tempo, seconds):
        for start, end in zip(starts, [*starts[1:], starts[0] + loop], strict=True):
            start_s, end_s = (float(time) for time in tempo.at(np.array([start, end]) + moved))
            if end_s > 0 and start_s < seconds and end > start:
                found.append((start_s, end_s, triad_of(piece, start, end)))
    return found


def triad_of(piece: Piece, start: float, end: float) -> str:
    """The numeral of the triad whose tones sound longest between two quarters."""
    here = (piece.onset_N >= start - 0.01) & (piece.onset_N < end - 0.01)
    if not here.any():
        return next(iter(TRIADS[piece.mode]))
    weights = np.bincount(piece.midi_N[here] % 12, piece.duration_N[here], 12)
    weights = weights / weights.sum()

    def fit(numeral: str) -> float:
        above, quality = parse_numeral(numeral)
        tones = chord_classes((piece.tonic + above) % 12, quality)
        return float(sum(weights[tone] for tone in tones)) + TRIADS[piece.mode][numeral]

    return max(TRIADS[piece.mode], key=fit)
