"""Bars, steps and seconds: the grid that every player reads."""

from dataclasses import dataclass

from mir_benchmarks.synth.score import Chord
from mir_benchmarks.synth.styles import Groove


@dataclass(frozen=True)
class Bar:
    number: int
    section: str
    energy: float
    in_section: int
    last: bool  # of its section
    chords: tuple[Chord, ...]


@dataclass(frozen=True)
class Timeline:
    """A clip's grid: `at` says when a step of a bar is, `chord` what sounds there."""

    start_s: float
    beat_s: float
    groove: Groove
    swing: float
    tonic: int
    mode: str
    bars: tuple[Bar, ...]

    @property
    def n_steps(self) -> int:
        return self.groove.beats * self.groove.steps

    def at(self, bar: Bar, step: float) -> float:
        """Seconds of a step; swing bends the middle of each beat backwards, beats stay."""
        beat, fraction = divmod(step / self.groove.steps, 1)
        late = fraction * (1 + 2 * self.swing) if fraction < 0.5 else fraction + 2 * self.swing * (1 - fraction)
        return self.start_s + (bar.number * self.groove.beats + beat + late) * self.beat_s

    def chord(self, bar: Bar, step: float) -> Chord:
        return bar.chords[min(len(bar.chords) - 1, int(step * len(bar.chords) / self.n_steps))]

    def next_chord(self, bar: Bar, step: float) -> Chord:
        """The chord after the one at this step; the last one stays."""
        i = bar.chords.index(self.chord(bar, step)) + 1
        if i < len(bar.chords):
            return bar.chords[i]
        return self.bars[min(bar.number + 1, len(self.bars) - 1)].chords[0]

    def beat_times(self, seconds: float) -> tuple[tuple[float, int], ...]:
        """(time, position in the bar) of all beats within the clip."""
        n = self.groove.beats
        beats = [(self.start_s + i * self.beat_s, i % n + 1) for i in range(len(self.bars) * n)]
        return tuple((time, position) for time, position in beats if 0 <= time < seconds)

    def accent(self, step: int) -> float:
        """1 on the bar line, less on beats, least between."""
        if step == 0:
            return 1.0
        return 0.88 if step % self.groove.steps == 0 else 0.74
