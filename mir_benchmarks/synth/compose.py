"""A score from a seed: the plan of a clip, its harmony, and the clock that turns steps into seconds."""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from mir_benchmarks.synth.players import bass_line, chord_part, drum_part, melody, pad_part
from mir_benchmarks.synth.score import Chord, Note, Part, Score, Section
from mir_benchmarks.synth.seeds import Seed, seed_of, stream
from mir_benchmarks.synth.styles import STYLES, Groove, Style
from mir_benchmarks.synth.theory import functional_progression, parse_numeral, read_progression
from mir_benchmarks.synth.timeline import Bar, Timeline

ENERGY = {"intro": 0.62, "verse": 0.76, "solo": 0.88, "bridge": 0.7, "chorus": 1.0}
BARS_PER_SECTION = 4
E = TypeVar("E", Note, Chord)


@dataclass(frozen=True)
class Plan:
    """What is decided before a note is written."""

    style: str
    tonic: int
    mode: str
    tempo_bpm: float
    groove: Groove
    swing: float
    start_s: float  # the first bar line; at or before 0, since a clip is an excerpt

    @property
    def bar_s(self) -> float:
        return self.groove.beats * 60 / self.tempo_bpm


def compose(
    seed: int | Sequence[int],
    seconds: float,
    *,
    style: str | None = None,
    tonic: int | None = None,
    mode: str | None = None,
    tempo_bpm: float | None = None,
    metre: tuple[int, int] | None = None,
    vocals: bool | None = None,
    instruments: tuple[int, int] = (0, 64),
    singers: tuple[int, int] = (0, 20),
    band: str | None = None,
) -> Score:
    """Write the clip of this seed; what a constraint does not name is as it would have been.

    `seed`: an integer, or (purpose, seed, index). `instruments`: players come from indices [low, high) of a family,
    singers from those of `singers`. `band`: the style of players, kit and techniques, if it is another.

    >>> score = compose(3, 10.0, style="disco")
    >>> score == compose(3, 10.0, style="disco"), score.style, 112 <= score.tempo_bpm <= 128
    (True, 'disco', True)
    """
    if not (math.isfinite(seconds) and seconds > 0):
        raise ValueError(f"a clip of {seconds} s has no music: give a positive number of seconds")
    words = seed_of(seed)
    plan = make_plan(words, style, tonic, mode, tempo_bpm, metre)
    template = STYLES[plan.style]
    timeline = lay_out(words, plan, template, seconds)
    if band is not None and band not in STYLES:
        raise ValueError(f"no band for {band!r}: give one of {', '.join(STYLES)}")
    parts, kit = cast(words, STYLES[band or plan.style], vocals, instruments, singers)
    notes = [note for i, part in enumerate(parts) for note in play(words, i, parts, timeline, template)]
    hits = drum_part(timeline, stream(words, "drums"), template.touch_s) if plan.groove.drums else []
    return Score(
        words, float(seconds), plan.style, plan.tonic, plan.mode, plan.tempo_bpm, plan.groove.metre, plan.swing, kit,
        tuple(parts), sections_of(timeline, seconds),
        tuple(excerpt((chord for bar in timeline.bars for chord in bar.chords), seconds)), timeline.beat_times(seconds),
        tuple(sorted(excerpt(notes, seconds, 0.02, 0.12), key=lambda note: (note.onset_s, note.part, note.midi))),
        tuple(sorted((h for h in hits if 0 <= h.onset_s < seconds), key=lambda hit: (hit.onset_s, hit.piece))),
    )  # fmt: skip


def make_plan(
    seed: Seed,
    style: str | None,
    tonic: int | None,
    mode: str | None,
    tempo_bpm: float | None,
    metre: tuple[int, int] | None,
) -> Plan:
    """All draws are made whatever is constrained, so that a constraint moves nothing else."""
    rng = stream(seed, "plan")
    drawn_style, drawn_tonic = list(STYLES)[int(rng.integers(len(STYLES)))], int(rng.integers(12))
    u_mode, u_tempo, u_groove, u_swing, u_start = map(float, rng.random(5))
    name = drawn_style if style is None else style
    if name not in STYLES:
        raise ValueError(f"no style {name!r}: give one of {', '.join(STYLES)}")
    if mode not in (None, "major", "minor"):
        raise ValueError(f'mode is "major" or "minor", not {mode!r}')
    if tempo_bpm is not None and not 20 <= tempo_bpm <= 400:
        raise ValueError(f"a tempo of {tempo_bpm} BPM is not playable: give 20 to 400")
    template = STYLES[name]
    grooves = [groove for groove in template.grooves if metre in (None, groove.metre)]
    if not grooves:
        raise ValueError(f"{name} has no groove in {metre}: it has {sorted({g.metre for g in template.grooves})}")
    groove = grooves[int(u_groove * len(grooves))]
    low, high = template.tempo
    tempo = round(low * (high / low) ** u_tempo, 2) if tempo_bpm is None else float(tempo_bpm)
    swing = template.swing[0] + u_swing * (template.swing[1] - template.swing[0]) if groove.steps != 3 else 0.0
    drawn_mode = "minor" if u_mode < template.minor else "major"
    start_s = -u_start * groove.beats * 60 / tempo
    tonic = drawn_tonic if tonic is None else tonic % 12
    return Plan(name, tonic, mode or drawn_mode, tempo, groove, float(swing), start_s)


def lay_out(seed: Seed, plan: Plan, template: Style, seconds: float) -> Timeline:
    """Bars with their sections and chords: an excerpt that begins at some section of the form."""
    rng = stream(seed, "harmony")
    form = str(rng.choice(template.forms)).split()
    first = int(rng.integers(len(form)))
    progressions = {name: pick_progression(rng, template, plan.mode) for name in dict.fromkeys(form)}
    n_bars = math.ceil((seconds - plan.start_s) / plan.bar_s)
    bars: list[Bar] = []
    while len(bars) < n_bars:
        name = form[first % len(form)]
        progression = progressions[name]
        length = max(BARS_PER_SECTION, len(progression))
        for i in range(length):
            chords = make_chords(plan, progression[i % len(progression)], plan.start_s + len(bars) * plan.bar_s)
            bars.append(Bar(len(bars), name, ENERGY[name], i, i == length - 1, tuple(chords)))
        first += 1
    beat_s = 60 / plan.tempo_bpm
    return Timeline(plan.start_s, beat_s, plan.groove, plan.swing, plan.tonic, plan.mode, tuple(bars[:n_bars]))


def pick_progression(rng: np.random.Generator, template: Style, mode: str) -> list[list[str]]:
    """One of the style's own, or now and then a functional walk."""
    own = template.major_progressions if mode == "major" else template.minor_progressions
    written = read_progression(own[int(rng.integers(len(own)))])
    walked = functional_progression(rng, mode, BARS_PER_SECTION)
    return walked if rng.random() < 0.2 else written


def make_chords(plan: Plan, numerals: list[str], onset_s: float) -> list[Chord]:
    duration_s = plan.bar_s / len(numerals)
    chords = []
    for i, numeral in enumerate(numerals):
        semitones, quality = parse_numeral(numeral)
        chords.append(Chord(onset_s + i * duration_s, duration_s, (plan.tonic + semitones) % 12, quality, numeral))
    return chords


def cast(
    seed: Seed, style: Style, vocals: bool | None, instruments: tuple[int, int], singers: tuple[int, int]
) -> tuple[list[Part], tuple[str, int]]:
    """Who plays: a player per role, each an index into its family."""
    rng = stream(seed, "parts")

    def hire(role: str, families: tuple[str, ...], gain_db: float, drive: float = 0.0) -> Part:
        family = families[int(rng.integers(len(families)))]
        index = int(rng.integers(*instruments))
        gain = round(gain_db + float(rng.uniform(-2, 2)), 2)
        return Part(role, "bass" if role == "bass" else "other", family, index, gain, drive)

    parts = [hire("bass", style.bass, 0.5), hire(f"comp {style.comp[0]}", style.comp[1], -4.0, style.drive)]
    if style.comp2 is not None:
        parts.append(hire(f"comp2 {style.comp2[0]}", style.comp2[1], -8.0, style.drive))
    has_pad, sings = rng.random(2) < (0.7, style.vocals)
    if style.pad and has_pad:
        parts.append(hire("pad", style.pad, -10.0))
    parts.append(hire("lead", style.lead, -2.5, style.lead_drive))
    singer, technique = int(rng.integers(*singers)), str(rng.choice(style.techniques))
    if sings if vocals is None else vocals:
        parts.append(Part("vocals", "vocals", "voice", singer, round(float(rng.uniform(-1, 2)), 2), 0.0, technique))
    kit = (str(rng.choice(style.kits)), int(rng.integers(*instruments)))
    return parts, kit


def play(seed: Seed, i: int, parts: list[Part], timeline: Timeline, style: Style) -> list[Note]:
    """All notes of part `i`."""
    part = parts[i]
    role, _, way = part.role.partition(" ")
    rng = stream(seed, "playing", i)
    if role == "bass":
        return bass_line(i, timeline, rng, style.touch_s)
    if role == "pad":
        return pad_part(i, timeline, rng)
    if role in ("comp", "comp2"):
        pattern = timeline.groove.comp if role == "comp" else timeline.groove.comp2 or timeline.groove.comp
        return chord_part(i, timeline, rng, way, pattern, 57 if role == "comp" else 66, style.touch_s)
    return melody(i, part, any(p.role == "vocals" for p in parts), timeline, rng, style)


def excerpt(events: Iterable[E], seconds: float, min_s: float = 0.0, min_s_before: float = 0.0) -> Iterator[E]:
    """Notes or chords that sound within the clip, cut to it; what remains too short of them is dropped.

    `min_s_before` is the limit for those that begin before the clip.
    """
    for event in events:
        onset, end = max(0.0, event.onset_s), min(seconds, event.onset_s + event.duration_s)
        if end - onset > (min_s_before if event.onset_s < 0 else min_s):
            yield dataclasses.replace(event, onset_s=onset, duration_s=end - onset)


def sections_of(timeline: Timeline, seconds: float) -> tuple[Section, ...]:
    sections: list[Section] = []
    for bar in timeline.bars:
        onset, end = max(0.0, timeline.at(bar, 0)), min(seconds, timeline.at(bar, timeline.n_steps))
        if end <= onset:
            continue
        if bar.number == 0 or bar.in_section == 0:
            sections.append(Section(onset, end - onset, bar.section, bar.energy))
        else:
            sections[-1] = dataclasses.replace(sections[-1], duration_s=end - sections[-1].onset_s)
    return tuple(sections)
