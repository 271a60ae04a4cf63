"""From a score to sound: four stems, their sum, and the finished clip."""

import numpy as np

from mir_benchmarks.synth.drum_sounds import band_noise, sample
from mir_benchmarks.synth.effects import Finish, compress, drive, finish_of, produce
from mir_benchmarks.synth.instruments import instrument
from mir_benchmarks.synth.score import STEMS, Note, Score
from mir_benchmarks.synth.seeds import stream
from mir_benchmarks.synth.styles import STYLES
from mir_benchmarks.synth.tones import tone
from mir_benchmarks.synth.voice import sung

PART_RMS = 0.08  # of a part at 0 dB, over the samples in which it sounds
PEAK = 0.98
NOISE_SAMPLES = 2**16  # of the loop from which all notes of a part take their noise, each from its own place


def render(score: Score, rate_hz: int = 24_000) -> dict[str, np.ndarray]:
    """The stems vocals, drums, bass and other, each float32 [N], dry; silent where nobody plays."""
    n = round(score.seconds * rate_hz)
    stems = {name: np.zeros(n, np.float32) for name in STEMS}
    for i, part in enumerate(score.parts):
        notes = [note for note in score.notes if note.part == i]
        if notes:
            stems[part.stem] += render_part(score, i, notes, rate_hz)
    if score.hits:
        stems["drums"] += render_drums(score, rate_hz)
    return stems


def render_part(score: Score, i_part: int, notes: list[Note], rate_hz: int) -> np.ndarray:
    """All notes of one part, driven if it is, at its level."""
    part = score.parts[i_part]
    n = round(score.seconds * rate_hz)
    out = np.zeros(n, np.float32)
    breath = None
    for i, note in enumerate(notes):
        sings = part.family == "voice"
        patch = sung(part.index, part.technique, note.vowel) if sings else instrument(part.family, part.index)
        if breath is None and patch.noise:
            breath = band_noise(stream(score.seed, "breath", i_part), NOISE_SAMPLES, patch.noise_hz, rate_hz)
            breath = np.tile(breath.astype(np.float32), (n + 2 * rate_hz) // NOISE_SAMPLES + 2)
        noise = None if breath is None else breath[(i * 7919) % NOISE_SAMPLES :]
        wave = tone(patch, note.midi, note.duration_s, note.velocity, rate_hz, noise)
        start = round(note.onset_s * rate_hz)
        out[start : start + len(wave)] += wave[: n - start]
    return level(drive(out, part.drive) if part.drive else out, part.gain_db)


def level(wave_N: np.ndarray, gain_db: float) -> np.ndarray:
    """To a rms that does not depend on how much of the clip a part plays."""
    loud = np.abs(wave_N)
    sounding = wave_N[loud > 0.02 * float(loud.max(initial=0))]
    if not len(sounding):
        return wave_N
    rms = float(np.sqrt(np.mean(np.square(sounding, dtype=np.float64))))
    return wave_N * np.float32(PART_RMS / rms * 10 ** (gain_db / 20))


def render_drums(score: Score, rate_hz: int) -> np.ndarray:
    n = round(score.seconds * rate_hz)
    out = np.zeros(n, np.float32)
    for hit in score.hits:
        wave = sample(*score.kit, hit.piece, rate_hz)
        start = round(hit.onset_s * rate_hz)
        out[start : start + len(wave)] += wave[: n - start] * np.float32(hit.velocity**1.5)
    # The drum bus saturates gently: strokes stay apart, peaks stay near.
    return np.tanh(out * np.float32(1.5)) * np.float32(0.28 * 10 ** (STYLES[score.style].drums_db / 20))


def total(stems: dict[str, np.ndarray]) -> np.ndarray:
    """The sum of the stems, in a fixed order."""
    return sum((stems[name] for name in STEMS), np.zeros_like(stems[STEMS[0]]))


def mix(
    stems: dict[str, np.ndarray],
    score: Score,
    rate_hz: int = 24_000,
    *,
    room: bool = True,
    eq: bool = True,
    noise: bool = True,
    level: bool = True,
    finish: Finish | None = None,
) -> np.ndarray:
    """The finished clip, float32 [N]: no DC, peak below 1. With all switches off: the plain sum of the stems.

    `finish`: another one than that of the score's style.
    """
    finish = finish_of(score) if finish is None else finish
    out = total(stems)
    if room or eq:
        out = produce(out, finish, score.seed, rate_hz, room, eq)
    if finish.squeeze:
        out = compress(out, finish.squeeze, rate_hz)
    rms = float(np.sqrt(np.mean(np.square(out, dtype=np.float64))))
    if noise and rms:
        hiss = stream(score.seed, "hiss").standard_normal(len(out), dtype=np.float32)
        out = out + hiss * np.float32(rms * 10 ** (finish.noise_db / 20))
    if level and rms:
        out = out - np.float32(np.mean(out, dtype=np.float64))
        gain = 10 ** (finish.level_db / 20) / rms
        out = out * np.float32(min(gain, PEAK / float(np.max(np.abs(out)))))
    return out
