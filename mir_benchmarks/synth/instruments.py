"""Eleven families of instruments, each without limit: `instrument(family, index)` is a pure function."""

from collections.abc import Callable
from functools import lru_cache

from mir_benchmarks.synth.patch import Patch
from mir_benchmarks.synth.seeds import Draw, draw_patch


@lru_cache(maxsize=4096)
def instrument(family: str, index: int) -> Patch:
    """The patch of one instrument; no two indices share their parameters.

    >>> instrument("flute", 3) == instrument("flute", 3), instrument("flute", 3) == instrument("flute", 4)
    (True, False)
    """
    if family not in FAMILIES:
        raise ValueError(f"no family {family!r}: give one of {', '.join(FAMILIES)}")
    return FAMILIES[family](index, draw_patch("instrument", list(FAMILIES).index(family), index))


def geometric(draw: Draw, low: float, high: float) -> float:
    """Uniform in the logarithm: for times and frequencies."""
    return low * (high / low) ** draw(0, 1)


def bass(index: int, draw: Draw) -> Patch:
    """Plucked strings, and every third a synthesiser."""
    if index % 3 == 2:
        return Patch(
            "bass", index, tilt_db=draw(6, 8), even=draw(0.2, 1), cutoff=(geometric(draw, 900, 3000), draw(250, 500)),
            bright=(draw(0.7, 1), draw(0, 0.2), geometric(draw, 0.06, 0.3)), attack_s=0.004, decay_s=draw(0.4, 1.5),
            sustain=draw(0.4, 0.9), release_s=0.05, detune_cents=draw(0, 8),
        )  # fmt: skip
    return Patch(
        "bass", index, tilt_db=draw(7, 10), pluck=draw(0.12, 0.4), cutoff=(geometric(draw, 1500, 4000), draw(350, 800)),
        bright=(1, draw(0, 0.15), geometric(draw, 0.08, 0.35)), attack_s=draw(0.003, 0.012), decay_s=draw(0.7, 2),
        sustain=draw(0.1, 0.4), release_s=draw(0.04, 0.09), noise=draw(0, 0.05), noise_decay_s=0.015,
    )  # fmt: skip


def brass(index: int, draw: Draw) -> Patch:
    """Spectra that open as the tone swells."""
    centre = geometric(draw, 700, 1700)
    return Patch(
        "brass", index, tilt_db=draw(4, 7), formants=((centre, centre, 1.0), (centre * 2.1, 1500, draw(0.2, 0.5))),
        cutoff=(geometric(draw, 4500, 9000), draw(900, 1600)), bright=(0.1, draw(0.6, 1), draw(0.05, 0.14)),
        attack_s=draw(0.025, 0.07), decay_s=draw(0.2, 0.6), sustain=draw(0.75, 0.9), release_s=draw(0.06, 0.12),
        noise=draw(0.01, 0.03), vibrato=(draw(4.5, 6), draw(0, 14), 0.3), scoop_cents=draw(0, 40),
    )  # fmt: skip


def flute(index: int, draw: Draw) -> Patch:
    """Few partials, much breath."""
    return Patch(
        "flute", index, tilt_db=draw(13, 19), even=draw(0.5, 1.3), cutoff=(draw(4000, 7000), draw(1800, 3000)),
        bright=(draw(0.2, 0.6), draw(0.3, 0.9), 0.15), attack_s=draw(0.04, 0.1), decay_s=0.5, sustain=draw(0.8, 0.95),
        release_s=draw(0.07, 0.14), noise=draw(0.06, 0.22), noise_hz=(draw(900, 2000), draw(5000, 9000)),
        vibrato=(draw(4.2, 6), draw(6, 22), 0.25), tremolo=(draw(4.2, 6), draw(0.05, 0.2)),
    )  # fmt: skip


def guitar(index: int, draw: Draw) -> Patch:
    """A comb where the string is plucked; the top dies first."""
    return Patch(
        "guitar", index, tilt_db=draw(4.5, 7.5), pluck=draw(0.08, 0.3),
        formants=((draw(90, 130), 80, 0.9), (draw(190, 260), 120, 0.8), (geometric(draw, 1500, 3500), 5000, 0.9)),
        cutoff=(geometric(draw, 6000, 11000), draw(1400, 3000)),
        bright=(1, draw(0.03, 0.15), geometric(draw, 0.15, 0.5)), attack_s=draw(0.002, 0.006),
        decay_s=geometric(draw, 0.6, 1.8), sustain=0.02, release_s=draw(0.06, 0.12), noise=draw(0.02, 0.1),
        noise_hz=(1500, 7000), noise_decay_s=0.012, detune_cents=draw(0, 3),
    )  # fmt: skip


def keyboard(index: int, draw: Draw) -> Patch:
    """Pianos, electric pianos (FM) and harpsichords in turn."""
    if index % 3 == 1:
        return Patch(
            "keyboard", index, method="fm", fm=(float((1, 14, 7, 3)[int(draw(0, 4))]), draw(0.6, 1.6)),
            bright=(1, draw(0.02, 0.15), geometric(draw, 0.15, 0.5)), attack_s=0.003, decay_s=draw(0.8, 2.2),
            sustain=0.05, release_s=draw(0.08, 0.18), tremolo=(draw(3, 6), draw(0, 0.3)), detune_cents=draw(0, 4),
        )  # fmt: skip
    sharp = index % 3 == 2
    return Patch(
        "keyboard", index, tilt_db=draw(3, 5) if sharp else draw(7, 9.5), pluck=draw(0.1, 0.16),
        cutoff=(draw(9000, 11000), draw(3000, 5000)) if sharp else (geometric(draw, 4000, 9000), draw(1000, 2000)),
        bright=(1, draw(0.05, 0.2), geometric(draw, 0.15, 0.5)), attack_s=draw(0.002, 0.005),
        decay_s=geometric(draw, 0.7, 2.2), sustain=0.03, release_s=draw(0.08, 0.16), noise=draw(0.02, 0.06),
        noise_hz=(200, 3000), noise_decay_s=0.02, detune_cents=draw(0.8, 2.5),
    )  # fmt: skip


BARS = (
    ((1, 1, 1), (4, 0.45, 0.4), (10.2, 0.2, 0.15)),  # vibraphone, marimba
    ((1, 1, 1), (3, 0.55, 0.5), (6.1, 0.3, 0.2)),  # xylophone
    ((1, 1, 1), (2.756, 0.5, 0.7), (5.404, 0.35, 0.4), (8.933, 0.2, 0.2)),  # glockenspiel
    ((1, 1, 1), (2.0, 0.5, 0.8), (2.4, 0.3, 0.7), (3.0, 0.25, 0.6), (4.5, 0.2, 0.3)),  # bells
)


def mallet(index: int, draw: Draw) -> Patch:
    """Struck bars: partials that are not harmonic, each with its own decay."""
    decay = geometric(draw, 0.25, 1.6)
    modes = tuple((ratio, gain * draw(0.6, 1.3) if i else 1.0, decay * fade) for i, (ratio, gain, fade)
                  in enumerate(BARS[index % len(BARS)]))  # fmt: skip
    return Patch(
        "mallet", index, method="modal", modes=modes, attack_s=0.002, decay_s=decay, sustain=0.0,
        release_s=draw(0.1, 0.25), noise=draw(0.05, 0.2), noise_hz=(800, 6000), noise_decay_s=draw(0.006, 0.015),
        tremolo=(draw(3, 7), draw(0, 0.3) if index % len(BARS) == 0 else 0.0),
    )  # fmt: skip


def organ(index: int, draw: Draw) -> Patch:
    """Drawbars, steady, with a rotor."""
    drawbars = tuple(draw(0.05, 1) if k in (2, 3, 4, 6, 8) else 0.9 if k == 1 else draw(0, 0.15) for k in range(1, 11))
    return Patch(
        "organ", index, partials=drawbars, cutoff=(9000, 6000), bright=(1, 0.7, 0.05), attack_s=draw(0.005, 0.02),
        decay_s=5.0, sustain=0.95, release_s=draw(0.03, 0.07), noise=draw(0.02, 0.08), noise_decay_s=0.008,
        vibrato=(draw(5.5, 7), draw(2, 9), 0.0), tremolo=(draw(5.5, 7), draw(0, 0.25)),
    )  # fmt: skip


def reed(index: int, draw: Draw) -> Patch:
    """Clarinets (odd partials), saxophones and oboes in turn."""
    kind = index % 3
    formants = (
        (),
        ((draw(550, 800), 500, 1.0), (draw(1400, 1900), 900, 0.5)),
        ((draw(950, 1250), 400, 1), (2900, 900, 0.5)),
    )
    return Patch(
        "reed", index, tilt_db=(draw(7, 10), draw(4, 6), draw(2, 4))[kind], even=draw(0.05, 0.25) if kind == 0 else 1.0,
        formants=formants[kind], cutoff=(geometric(draw, 4000, 8000), draw(1200, 2200)),
        bright=(0.2, draw(0.5, 0.9), draw(0.03, 0.09)), attack_s=draw(0.02, 0.06), decay_s=0.4, sustain=draw(0.8, 0.95),
        release_s=draw(0.05, 0.1), noise=draw(0.015, 0.06), vibrato=(draw(4.5, 6), draw(3, 18), 0.3),
        scoop_cents=draw(0, 30),
    )  # fmt: skip


def string(index: int, draw: Draw) -> Patch:
    """Bowed, with a body that resonates; two voices make the section."""
    body = ((draw(260, 320), 90, 1.0), (draw(430, 560), 130, 1.0), (geometric(draw, 900, 1600), 900, 0.8),
            (draw(2300, 3200), 1500, 0.6))  # fmt: skip
    return Patch(
        "string", index, tilt_db=draw(4.5, 7), formants=body, cutoff=(geometric(draw, 5000, 9500), draw(1800, 3000)),
        bright=(0.3, draw(0.5, 1), 0.12), attack_s=geometric(draw, 0.04, 0.12), decay_s=0.8, sustain=draw(0.8, 0.95),
        release_s=draw(0.1, 0.2), noise=draw(0.01, 0.04), noise_hz=(2000, 8000),
        vibrato=(draw(4.8, 6.4), draw(8, 24), 0.2), detune_cents=draw(4, 11),
    )  # fmt: skip


def synth_lead(index: int, draw: Draw) -> Patch:
    """Saws, squares and FM, detuned."""
    if index % 3 == 2:
        return Patch(
            "synth_lead", index, method="fm", fm=(float(int(draw(1, 5))), draw(1.2, 3)),
            bright=(1, draw(0.2, 0.7), draw(0.1, 0.6)), attack_s=draw(0.004, 0.03), decay_s=1.0, sustain=draw(0.6, 0.9),
            release_s=0.07, detune_cents=draw(5, 14), vibrato=(draw(4, 7), draw(0, 18), 0.2),
        )  # fmt: skip
    return Patch(
        "synth_lead", index, tilt_db=6.02, even=1.0 if index % 3 == 0 else draw(0, 0.3),
        cutoff=(geometric(draw, 4000, 11000), geometric(draw, 900, 2500)), bright=(1, draw(0.1, 0.9), draw(0.08, 0.6)),
        attack_s=geometric(draw, 0.003, 0.05), decay_s=1.0, sustain=draw(0.6, 0.95), release_s=draw(0.05, 0.15),
        vibrato=(draw(4, 7), draw(0, 18), 0.2), detune_cents=draw(5, 16),
    )  # fmt: skip


def vocal(index: int, draw: Draw) -> Patch:
    """Choirs and vocal pads: a vowel held by two voices."""
    scale = draw(0.85, 1.2)
    vowel = ((700, 1150, 2600), (400, 2000, 2650), (320, 750, 2500), (450, 800, 2830))[index % 4]
    formants = tuple((f * scale, w, g) for f, w, g in zip(vowel, (110, 140, 220), (1.0, 0.6, 0.3), strict=True))
    return Patch(
        "vocal", index, tilt_db=draw(6, 9), formants=formants, cutoff=(draw(4500, 8000), draw(2000, 3000)),
        bright=(0.3, draw(0.5, 0.9), 0.1), attack_s=draw(0.05, 0.12), decay_s=0.6, sustain=0.9,
        release_s=draw(0.1, 0.2), noise=draw(0.03, 0.1), noise_hz=(1500, 7000),
        vibrato=(draw(4.8, 6.2), draw(10, 30), 0.2), detune_cents=draw(6, 14),
    )  # fmt: skip


FAMILIES: dict[str, Callable[[int, Draw], Patch]] = {
    "bass": bass, "brass": brass, "flute": flute, "guitar": guitar, "keyboard": keyboard, "mallet": mallet,
    "organ": organ, "reed": reed, "string": string, "synth_lead": synth_lead, "vocal": vocal,
}  # fmt: skip
