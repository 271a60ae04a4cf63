"""Singers as formants, breath and vibrato, and ten techniques: both end in a patch."""

import dataclasses
from functools import lru_cache

from mir_benchmarks.synth.patch import Patch
from mir_benchmarks.synth.seeds import draw_patch

VOWELS = {
    "a": (730, 1150, 2550, 3400), "e": (480, 1850, 2550, 3500), "i": (300, 2200, 2950, 3600),
    "o": (450, 820, 2550, 3350), "u": (330, 720, 2400, 3300),
}  # fmt: skip
STILL = (0.0, 0.0, 0.0)  # no vibrato
TECHNIQUES = (
    "belt", "breathy", "inhaled", "lip_trill", "spoken", "straight", "trill", "trillo", "vibrato", "vocal_fry",
)  # fmt: skip


@lru_cache(maxsize=1024)
def singer(index: int) -> Patch:
    """A voice on the neutral vowel; even ones are lower (longer tracts) than odd ones."""
    draw = draw_patch("singer", 0, index)
    scale = draw(0.86, 1.0) if index % 2 == 0 else draw(1.05, 1.22)
    return Patch(
        "voice", index, tilt_db=draw(4, 6.5), formants=formants("a", scale),
        cutoff=(draw(7000, 10000), draw(3000, 4500)), bright=(0.3, draw(0.5, 0.9), draw(0.06, 0.12)),
        attack_s=draw(0.025, 0.06), decay_s=0.6, sustain=draw(0.8, 0.95), release_s=draw(0.06, 0.12),
        noise=draw(0.02, 0.06), noise_hz=(draw(2000, 3500), draw(6500, 9500)),
        vibrato=(draw(4.8, 6.5), draw(25, 60), draw(0.15, 0.35)), scoop_cents=draw(0, 60),
    )  # fmt: skip


def formants(vowel: str, scale: float) -> tuple[tuple[float, float, float], ...]:
    """Bands of a vowel on a tract of some length; the upper ones are weak where the lower two lie close and low."""
    widths = (100, 120, 180, 260)
    gains = (1.0, 0.5, 0.12, 0.08) if vowel in "ou" else (1.0, 0.6, 0.45, 0.35)
    return tuple((f * scale, w, g) for f, w, g in zip(VOWELS[vowel], widths, gains, strict=True))


@lru_cache(maxsize=4096)
def sung(index: int, technique: str, vowel: str) -> Patch:
    """Singer `index` on a vowel in a technique.

    >>> sung(4, "straight", "a").vibrato[1], sung(4, "vibrato", "a").vibrato[1] >= 25
    (0.0, True)
    """
    voice = singer(index)
    (hz, cents, delay), tilt = voice.vibrato, voice.tilt_db
    changes: dict[str, dict[str, object]] = {
        "belt": {"tilt_db": tilt - 3, "bright": (0.8, 1.0, 0.05), "vibrato": (hz, cents * 0.5, 0.5), "noise": 0.02},
        "breathy": {"tilt_db": tilt + 5, "noise": 0.4, "vibrato": (hz, cents * 0.2, delay), "attack_s": 0.08},
        "inhaled": {"tilt_db": tilt + 4, "noise": 1.2, "attack_s": 0.15, "vibrato": STILL, "scoop_cents": -80.0},
        "lip_trill": {"cutoff": (1200.0, 700.0), "tremolo": (24 + hz, 0.8), "noise": 0.15, "noise_hz": (100.0, 1500.0)},
        "spoken": {"scoop_cents": -250.0, "vibrato": STILL, "sustain": 0.3, "decay_s": 0.15, "noise": 0.1},
        "straight": {"vibrato": STILL},
        "trill": {"vibrato": (hz + 0.5, 110.0, 0.0)},
        "trillo": {"vibrato": STILL, "tremolo": (hz + 2, 0.9)},
        "vibrato": {"vibrato": (hz, cents * 1.2, delay)},
        "vocal_fry": {"tremolo": (35 + 3 * hz, 0.85), "vibrato": STILL, "noise": 0.15, "tilt_db": tilt - 1},
    }
    if technique not in changes or vowel not in VOWELS:
        raise ValueError(f"cannot sing {vowel!r} as {technique!r}: techniques are {', '.join(TECHNIQUES)}")
    scale = voice.formants[0][0] / VOWELS["a"][0]
    return dataclasses.replace(voice, formants=formants(vowel, scale), **changes[technique])  # type: ignore[arg-type]
