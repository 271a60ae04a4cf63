"""The notes of each player on the grid: bass lines, chords, pads, melodies and drums."""

import numpy as np

from mir_benchmarks.synth.score import Chord, Hit, Note, Part
from mir_benchmarks.synth.styles import Style
from mir_benchmarks.synth.theory import QUALITIES, chord_classes, melody_classes, near, voicing
from mir_benchmarks.synth.timeline import Bar, Timeline

VOWELS = ("a", "e", "i", "o", "u")
VELOCITY = {"X": 1.0, "x": 0.8, "g": 0.4}
REGISTERS = {"flute": 79, "string": 74, "brass": 67, "reed": 69, "guitar": 70, "mallet": 77, "voice": 62}


def strikes(pattern: str, n_steps: int) -> list[tuple[int, str, int]]:
    """(step, character, length in steps) of the strokes in a bar.

    >>> strikes("1-.5", 4), strikes("x.", 4)
    ([(0, '1', 2), (3, '5', 1)], [(0, 'x', 1), (2, 'x', 1)])
    """
    bar = (pattern * (n_steps // max(1, len(pattern)) + 1))[:n_steps]
    struck = []
    for step, character in enumerate(bar):
        if character not in ".-":
            held = len(bar[step + 1 :]) - len(bar[step + 1 :].lstrip("-"))
            struck.append((step, character, held + 1))
    return struck


def touch(rng: np.random.Generator, touch_s: float) -> float:
    """How far a human hand is off the grid."""
    return float(np.clip(rng.normal(0, touch_s), -3 * touch_s, 3 * touch_s))


def bass_line(part: int, timeline: Timeline, rng: np.random.Generator, touch_s: float) -> list[Note]:
    notes = []
    for bar in timeline.bars:
        for step, degree, length in strikes(timeline.groove.bass, timeline.n_steps):
            chord = timeline.chord(bar, step)
            midi = bass_pitch(chord, degree, timeline.next_chord(bar, step), rng)
            onset = timeline.at(bar, step)
            duration = timeline.at(bar, step + length) - onset
            velocity = timeline.accent(step) * (0.7 + 0.3 * bar.energy) * float(rng.uniform(0.9, 1.0))
            notes.append(Note(part, onset + touch(rng, touch_s), duration * 0.94, midi, velocity))
    return notes


def bass_pitch(chord: Chord, degree: str, following: Chord, rng: np.random.Generator) -> int:
    """The pitch of a bass degree, from E1 upward; `a` is a step from the next root."""
    root = near(chord.root, 33.5)
    intervals = QUALITIES[chord.quality]
    third, fifth = (intervals[1], intervals[2]) if len(intervals) > 2 else (7, 7)
    if degree == "a":
        return near(following.root, root + 2) + int(rng.choice((-1, 1, 2, -2)))
    return root + {"1": 0, "3": third, "5": fifth, "8": 12}[degree]


def chord_part(
    part: int, timeline: Timeline, rng: np.random.Generator, way: str, pattern: str, centre: int, touch_s: float
) -> list[Note]:
    """Chords struck in a pattern: as a block, strummed, as power chords, or one tone after another."""
    notes = []
    for bar in timeline.bars:
        for count, (step, character, length) in enumerate(strikes(pattern, timeline.n_steps)):
            chord = timeline.chord(bar, step)
            onset = timeline.at(bar, step)
            duration = (timeline.at(bar, step + length) - onset) * 0.92
            velocity = VELOCITY[character] * timeline.accent(step) * bar.energy
            pitches = chord_pitches(chord, way, centre)
            if way == "arp":
                pitches = [[*pitches, pitches[0] + 12][(count * 2 if count % 4 > 1 else count) % (len(pitches) + 1)]]
                duration *= 1.6
            spread = 0.011 if way == "strum" else 0.0
            for i, midi in enumerate(pitches if step % 2 == 0 else pitches[::-1]):
                start = onset + i * spread + touch(rng, touch_s)
                notes.append(Note(part, start, duration, midi, velocity * float(rng.uniform(0.86, 1.0))))
    return notes


def chord_pitches(chord: Chord, way: str, centre: int) -> list[int]:
    if way == "power":
        root = near(chord.root, centre - 14)
        return [root, root + 7, root + 12]
    pitches = voicing(chord.root, chord.quality, centre)
    return [near(chord.root, centre - 11), *pitches] if way == "strum" else pitches


def pad_part(part: int, timeline: Timeline, rng: np.random.Generator) -> list[Note]:
    """Long chords, bound to one another."""
    notes = []
    for bar in timeline.bars:
        for chord in bar.chords:
            velocity = (0.6 + 0.4 * bar.energy) * float(rng.uniform(0.85, 1.0))
            notes += [Note(part, chord.onset_s, chord.duration_s, midi, velocity)
                      for midi in voicing(chord.root, chord.quality, 64)]  # fmt: skip
    return notes


def melody(part: int, who: Part, sings: bool, timeline: Timeline, rng: np.random.Generator, style: Style) -> list[Note]:
    """A tune: per section a motif of two bars, answered, repeated and varied; a singer and the lead take turns."""
    sung = who.role == "vocals"
    rests = {"intro", "solo"} if sung else ({"verse", "chorus"} if sings else set())
    motifs: dict[str, list[list[int]]] = {}
    centre = REGISTERS.get(who.family, 72) + (0 if not sung else (-9, 3)[who.index % 2])
    pitch, notes = centre, list[Note]()
    for bar in timeline.bars:
        if bar.section not in motifs:
            motifs[bar.section] = [motif(rng, timeline, style.melody_density) for _ in range(2)]
        rhythm = motifs[bar.section][bar.in_section % 2]
        leaps = rng.integers(-2, 3, size=len(rhythm))
        if bar.section in rests and not (bar.last and not sung):
            continue
        for i, step in enumerate(rhythm):
            until = rhythm[i + 1] if i + 1 < len(rhythm) else timeline.n_steps
            pitch = next_pitch(pitch, int(leaps[i]), timeline, bar, step, centre, style)
            onset = timeline.at(bar, step)
            duration = min(timeline.at(bar, until) - onset, 2.5 * timeline.beat_s)
            legato, loudness, vowel = rng.uniform(0.75, 0.98), rng.uniform(0.82, 1.0), rng.integers(len(VOWELS))
            onset += touch(rng, style.touch_s)
            velocity = float(loudness) * (0.55 + 0.45 * bar.energy) * (0.8 + 0.2 * timeline.accent(step))
            sound = VOWELS[int(vowel)] if sung else ""
            notes.append(Note(part, onset, duration * float(legato), pitch, velocity, sound))
    return notes


def motif(rng: np.random.Generator, timeline: Timeline, density: float) -> list[int]:
    """Steps of one bar on which the tune moves: beats first, then off-beats; never the very end of the bar."""
    per_beat = timeline.groove.steps
    weight = np.where(np.arange(timeline.n_steps) % per_beat == 0, 1.5, np.where(per_beat == 3, 0.8, 0.3))
    weight[:: max(1, per_beat // 2)] = np.maximum(weight[:: max(1, per_beat // 2)], 0.9)
    steps = np.flatnonzero(rng.random(timeline.n_steps) < density * weight)
    steps = steps[steps < timeline.n_steps - max(1, per_beat // 2)]
    return [int(step) for step in steps] if len(steps) else [0]


def next_pitch(pitch: int, leap: int, timeline: Timeline, bar: Bar, step: int, centre: int, style: Style) -> int:
    """From here by `leap` tones of the scale, drawn to the middle of the register; on beats a chord tone."""
    chord = timeline.chord(bar, step)
    tones = chord_classes(chord.root, chord.quality)
    strong = step % timeline.groove.steps == 0
    classes = tones if strong else melody_classes(timeline.tonic, timeline.mode, tones, style.pentatonic)
    if strong and timeline.tonic in tones and (bar.last or leap == 0):
        return near(timeline.tonic, pitch)
    leap = int(np.clip(leap, -1, 1)) if strong else leap  # chord tones are far apart already
    leap += int(np.sign(centre - pitch)) * (abs(centre - pitch) > 7) * 2
    ladder = sorted({near(pc, pitch + shift) for pc in classes for shift in (-12, 0, 12)})
    here = int(np.argmin([abs(tone - pitch) for tone in ladder]))
    return ladder[int(np.clip(here + leap, 0, len(ladder) - 1))]


def drum_part(timeline: Timeline, rng: np.random.Generator, touch_s: float) -> list[Hit]:
    """The groove bar by bar; thin in intros and bridges, a crash on new sections, a fill before them."""
    hits: list[Hit] = []
    for bar in timeline.bars:
        fill_from = timeline.n_steps - timeline.groove.steps if bar.last and bar.energy > 0.7 else timeline.n_steps
        for piece, pattern in timeline.groove.drums.items():
            if bar.section in ("intro", "bridge") and piece in ("snare", "clap", "crash"):
                continue
            for step, character, _ in strikes(pattern, timeline.n_steps):
                if step < fill_from or piece in ("kick", "pedal_hat"):
                    velocity = VELOCITY[character] * (0.6 + 0.4 * bar.energy) * float(rng.uniform(0.85, 1.0))
                    hits.append(Hit(timeline.at(bar, step) + touch(rng, touch_s / 2), piece, velocity))
        for i, step in enumerate(range(fill_from, timeline.n_steps)):
            piece = ("snare", "tom_high", "tom_mid", "tom_low")[int(rng.integers(1 + min(3, i + 1)))]
            hits.append(Hit(timeline.at(bar, step), piece, float(rng.uniform(0.6, 0.95))))
        if bar.in_section == 0 and bar.number and bar.energy > 0.85:
            hits.append(Hit(timeline.at(bar, 0), "crash", 0.9))
    return hits
