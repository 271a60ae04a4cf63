"""Scales, chords, Roman numerals and functional progressions."""

import re

import numpy as np

SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10)}
PENTATONIC = {"major": (0, 2, 4, 7, 9), "minor": (0, 3, 5, 7, 10)}
QUALITIES = {
    "": (0, 4, 7), "m": (0, 3, 7), "5": (0, 7), "7": (0, 4, 7, 10), "m7": (0, 3, 7, 10), "maj7": (0, 4, 7, 11),
    "6": (0, 4, 7, 9), "9": (0, 4, 7, 10, 14), "sus4": (0, 5, 7), "dim": (0, 3, 6), "m7b5": (0, 3, 6, 10),
    "dim7": (0, 3, 6, 9),
}  # fmt: skip
DEGREES = {"i": 0, "ii": 2, "iii": 4, "iv": 5, "v": 7, "vi": 9, "vii": 11}
NUMERAL = re.compile(r"(b|#)?(VII|VI|V|IV|III|II|I|vii|vi|v|iv|iii|ii|i)(.*)")

# Tonic, subdominant and dominant chords: progressions that no template holds are walks over these.
FUNCTIONS = {
    "major": {"T": ("I", "I", "vi", "iii"), "S": ("IV", "ii", "vi"), "D": ("V", "V7", "viidim")},
    "minor": {"T": ("i", "i", "bVI", "bIII"), "S": ("iv", "iidim", "bVI"), "D": ("V", "V7", "bVII")},
}
NEXT = {"T": ("T", "S", "S", "D"), "S": ("S", "D", "D", "T"), "D": ("T", "T", "T", "S")}


def parse_numeral(numeral: str) -> tuple[int, str]:
    """Semitones above the tonic, and the quality. Degrees are those of the major scale in both modes.

    >>> parse_numeral("bVII"), parse_numeral("ii7"), parse_numeral("Vmaj7"), parse_numeral("viidim")
    ((10, ''), (2, 'm7'), (7, 'maj7'), (11, 'dim'))
    """
    match = NUMERAL.fullmatch(numeral)
    if match is None:
        raise ValueError(f"not a Roman numeral: {numeral!r}")
    accidental, degree, suffix = match.groups()
    semitones = DEGREES[degree.lower()] + {"b": -1, "#": 1, None: 0}[accidental]
    quality = "m" + suffix if degree.islower() and suffix in ("", "7") else suffix
    if quality not in QUALITIES:
        raise ValueError(f"{numeral!r} has no known quality: give one of {', '.join(QUALITIES)}")
    return semitones % 12, quality


def functional_progression(rng: np.random.Generator, mode: str, n_bars: int) -> list[list[str]]:
    """A walk from tonic over subdominant and dominant, a chord a bar, which closes with a cadence."""
    chords = FUNCTIONS[mode]
    function, walk = "T", [chords["T"][0]]
    while len(walk) < n_bars - 2:
        function = str(rng.choice(NEXT[function]))
        walk.append(str(rng.choice([c for c in chords[function] if c != walk[-1]] or chords[function])))
    cadence = [chords["S"][int(rng.integers(2))], chords["D"][int(rng.integers(2))]]
    return [[numeral] for numeral in [*walk, *cadence][:n_bars]]


def read_progression(text: str) -> list[list[str]]:
    """Bars of numerals.

    >>> read_progression("I | IV V")
    [['I'], ['IV', 'V']]
    """
    return [bar.split() for bar in text.split("|")]


def chord_classes(root: int, quality: str) -> tuple[int, ...]:
    return tuple((root + interval) % 12 for interval in QUALITIES[quality])


def melody_classes(tonic: int, mode: str, chord: tuple[int, ...], pentatonic: bool) -> list[int]:
    """Pitch classes that sing well over a chord: the scale, less what grates against the chord's own foreign tones.

    >>> melody_classes(9, "minor", chord_classes(4, "7"), pentatonic=False)  # G gives way to G sharp over E7
    [0, 2, 4, 5, 8, 9, 11]
    """
    scale = {(tonic + s) % 12 for s in (PENTATONIC if pentatonic else SCALES)[mode]}
    foreign = set(chord) - {(tonic + s) % 12 for s in SCALES[mode]}
    steady = {tonic, (tonic + 7) % 12, *chord}
    return sorted(steady | {pc for pc in scale if not any((pc - f) % 12 in (1, 11) for f in foreign)})


def near(pitch_class: int, centre: float) -> int:
    """The pitch of this class that is nearest to `centre`.

    >>> near(0, 59), near(7, 60)
    (60, 55)
    """
    return int(pitch_class + 12 * np.ceil((centre - pitch_class) / 12 - 0.5))


def voicing(root: int, quality: str, centre: int) -> list[int]:
    """A chord's tones about `centre`, lowest first: staying near it is what leads the voices.

    >>> voicing(0, "", 62), voicing(5, "", 62)
    ([60, 64, 67], [60, 65, 69])
    """
    return sorted({near(pc, centre + 1.5) for pc in chord_classes(root, quality)})
