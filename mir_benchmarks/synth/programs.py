"""Programs of General MIDI: families, ranges, who plays a part of our scores, and the keys of drum kits."""

from collections.abc import Sequence

from mir_benchmarks.synth.score import Part

FAMILIES = {
    "piano": range(0, 8), "mallet": range(8, 16), "organ": range(16, 24), "guitar": range(24, 32),
    "bass": range(32, 40), "strings": range(40, 48), "ensemble": range(48, 56), "brass": range(56, 64),
    "reed": range(64, 72), "pipe": range(72, 80), "lead": range(80, 88), "pad": range(88, 96),
    "plucked": range(104, 112),
}  # fmt: skip
# Bells and harmonics have no clear pitch, timpani and hits no melody, effects and seashores no tune.
UNPITCHED = (14, 31, 47, 55)
MELODIC = tuple(program for family in FAMILIES.values() for program in family if program not in UNPITCHED)

# Lowest and highest key that an instrument can play, and that sounds in all banks; for all others those of WIDE.
RANGES = {
    6: (41, 89), 7: (36, 88), 8: (60, 96), 9: (72, 103), 10: (60, 96), 11: (53, 89), 12: (45, 96), 13: (65, 103),
    15: (50, 86), 22: (60, 96), 24: (40, 83), 25: (40, 83), 26: (40, 84), 27: (40, 84), 28: (40, 76), 29: (40, 84),
    30: (40, 84), 32: (28, 60), 33: (28, 62), 34: (28, 62), 35: (28, 62), 36: (28, 62), 37: (28, 62), 38: (28, 64),
    39: (28, 64), 40: (55, 93), 41: (48, 86), 42: (36, 76), 43: (28, 57), 44: (40, 96), 45: (36, 93), 46: (31, 98),
    52: (48, 84), 53: (48, 84), 54: (48, 84), 56: (54, 84), 57: (40, 72), 58: (29, 58), 59: (54, 84), 60: (41, 77),
    61: (40, 84), 64: (56, 88), 65: (49, 81), 66: (44, 76), 67: (37, 69), 68: (58, 89), 69: (52, 81), 70: (34, 72),
    71: (50, 91), 72: (74, 102), 73: (60, 96), 74: (60, 91), 75: (60, 93), 76: (55, 88), 77: (55, 88), 78: (62, 98),
    79: (60, 88), 104: (48, 79), 105: (48, 81), 106: (50, 79), 107: (48, 84), 108: (60, 86), 109: (55, 79),
    110: (55, 93), 111: (56, 86),
}  # fmt: skip
WIDE = (33, 96)

# What plays a part of a score, by its family and, where the composer has kinds of it, by index % 3.
CHOICES: dict[str, tuple[tuple[int, ...], ...]] = {
    "bass": ((32, 33, 34, 35), (33, 34, 36, 37), (38, 39)),
    "brass": ((56, 57, 59, 60, 61, 62),),
    "flute": ((72, 73, 74, 75, 76, 77, 79),),
    "guitar": ((24, 25, 26, 27, 28),),
    "keyboard": ((0, 1, 2, 3), (4, 5), (6, 7)),
    "mallet": ((8, 9, 10, 11, 12, 13, 15),),
    "organ": ((16, 17, 18, 19, 20),),
    "reed": ((71,), (64, 65, 66, 67), (68, 69, 70)),
    "string": ((40, 41, 42, 48, 49, 50, 51),),
    "synth_lead": ((81, 87, 90), (80, 82, 86), (83, 84, 85, 62)),
    "vocal": ((52, 53, 54, 91),),
}
OF_ROLE = {
    ("string", "bass"): (42, 43), ("string", "pad"): (48, 49, 50, 51), ("string", "lead"): (40, 41, 42, 44, 110),
    ("synth_lead", "pad"): (88, 89, 90, 91, 92, 93, 94, 95), ("synth_lead", "bass"): (38, 39),
}  # fmt: skip
DRIVEN = (29, 30)

# Kits by the kinds of our own drums: programs that all banks have.
DRUM_KITS = {
    "acoustic": (0, 8), "brush": (32, 40), "disco": (24,), "drum_machine": (25,), "heavy": (16,),
}  # fmt: skip
DRUM_KEYS = {
    "kick": 36, "snare": 38, "clap": 39, "rim": 37, "tom_low": 45, "tom_mid": 47, "tom_high": 50, "hat": 42,
    "open_hat": 46, "pedal_hat": 44, "ride": 51, "crash": 49, "china": 52, "shaker": 70,
}  # fmt: skip


def choices(part: Part) -> tuple[int, ...]:
    """The programs that may play a part.

    >>> choices(Part("lead", "other", "reed", 4, 0.0)), choices(Part("comp power", "other", "guitar", 0, 0.0, 0.9))
    ((64, 65, 66, 67), (29, 30))
    """
    if part.family == "guitar" and part.drive >= 0.5:
        return DRIVEN
    kinds = CHOICES[part.family]
    return OF_ROLE.get((part.family, part.role.partition(" ")[0]), kinds[part.index % len(kinds)])


def family_of(program: int) -> str:
    """The family of a program.

    >>> family_of(40), family_of(73)
    ('strings', 'pipe')
    """
    return next(name for name, programs in FAMILIES.items() if program in programs)


def range_of(program: int) -> tuple[int, int]:
    """Lowest and highest key of a program."""
    return RANGES.get(program, WIDE)


def octaves_into(range_: tuple[int, int], keys: Sequence[int]) -> int:
    """Semitones, a multiple of 12, that bring most of the keys into a range; the fewest of them.

    >>> octaves_into((55, 93), [50, 52, 57]), octaves_into((28, 60), [67, 72])
    (12, -12)
    """
    low, high = range_
    inside = {shift: sum(low <= key + shift <= high for key in keys) for shift in range(-48, 60, 12)}
    return min(inside, key=lambda shift: (-inside[shift], abs(shift)))
