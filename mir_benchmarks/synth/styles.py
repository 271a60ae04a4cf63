"""Ten styles as data: tempo, harmony, grooves, who plays.

Patterns are strings with one character per step of a bar; shorter strings repeat. Drums: `X` accent, `x` hit,
`g` ghost. Bass: a chord degree (1 3 5 8, `a` leads to the next root), `-` holds, `.` rests. Chords: `X`, `x` strike,
`-` holds.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Groove:
    """A rhythm: `metre`, steps to a beat, and what each player does on them."""

    drums: dict[str, str]
    bass: str
    comp: str
    comp2: str = ""
    metre: tuple[int, int] = (4, 4)
    steps: int = 4

    @property
    def beats(self) -> int:
        """Felt beats in a bar: two in 6/8."""
        numerator, denominator = self.metre
        return numerator // 3 if denominator == 8 else numerator


@dataclass(frozen=True)
class Style:
    """What makes a style. `comp` and `comp2` are (way of playing, families); `tone` is (equaliser tilt dB, room)."""

    tempo: tuple[float, float]
    minor: float
    grooves: tuple[Groove, ...]
    major_progressions: tuple[str, ...]
    minor_progressions: tuple[str, ...]
    kits: tuple[str, ...]
    bass: tuple[str, ...]
    comp: tuple[str, tuple[str, ...]]
    lead: tuple[str, ...]
    comp2: tuple[str, tuple[str, ...]] | None = None
    pad: tuple[str, ...] = ()
    swing: tuple[float, float] = (0.0, 0.0)
    vocals: float = 0.5
    techniques: tuple[str, ...] = ("vibrato", "straight")
    melody_density: float = 0.45
    pentatonic: bool = False
    drive: float = 0.0
    lead_drive: float = 0.0
    touch_s: float = 0.004
    drums_db: float = 0.0
    tone: tuple[float, float] = (0.0, 0.15)
    forms: tuple[str, ...] = field(default=("intro verse chorus verse chorus bridge chorus",))


BLUES_12 = "I7 | I7 | I7 | I7 | IV7 | IV7 | I7 | I7 | V7 | IV7 | I7 | V7"
BLUES_QUICK = "I7 | IV7 | I7 | I7 | IV7 | IV7 | I7 | I7 | V7 | IV7 | I7 | V7"
BLUES_MINOR = "i7 | i7 | i7 | i7 | iv7 | iv7 | i7 | i7 | bVI7 | V7 | i7 | V7"
FOUR_ON_FLOOR = {"kick": "X..." * 4, "snare": "....X.......X...", "open_hat": "..x." * 4, "hat": "x.g." * 4}

STYLES: dict[str, Style] = {
    "blues": Style(
        tempo=(62, 118), minor=0.25, swing=(0.13, 0.18), vocals=0.4, pentatonic=True, drive=0.15, lead_drive=0.35,
        grooves=(
            Groove({"kick": "X.....x..x..", "snare": "...X.....X..", "ride": "X.xX.xX.xX.x"}, "1.13.35.58.5",
                   "...x.x...x.x", "x-----------", steps=3),
            Groove({"kick": "X...x...", "snare": "..X...X.", "hat": "x.x.x.x."}, "1-3-5-8-", "x.x.x.x.", "x-------",
                   steps=2),
        ),
        major_progressions=(BLUES_12, BLUES_QUICK), minor_progressions=(BLUES_MINOR,), kits=("acoustic", "brush"),
        bass=("bass",), comp=("block", ("guitar", "keyboard")), comp2=("block", ("organ",)), lead=("guitar", "reed"),
        techniques=("belt", "vibrato"), tone=(-2.0, 0.15), forms=("verse verse solo verse",),
    ),
    "classical": Style(
        tempo=(58, 132), minor=0.45, vocals=0.0, melody_density=0.55, touch_s=0.009, tone=(-3.0, 0.45),
        grooves=(
            Groove({}, "1-------5-------", "x." * 8),
            Groove({}, "1---....5---....", "x-------x-------"),
            Groove({}, "1---........", "....x---x---", metre=(3, 4)),
        ),
        major_progressions=("I | IV | V7 | I", "I | vi | ii | V7", "I V | vi iii | IV I | IV V7"),
        minor_progressions=("i | iv | V7 | i", "i | bVI | iidim | V7", "i V7 | i iv | i V7 | i"), kits=("acoustic",),
        bass=("string",), comp=("arp", ("keyboard", "string", "mallet")), pad=("string",),
        comp2=("block", ("brass", "reed")), lead=("flute", "string", "reed"), forms=("verse verse chorus verse",),
    ),
    "country": Style(
        tempo=(84, 148), minor=0.1, swing=(0.0, 0.08), vocals=0.6, drums_db=-3.0, tone=(1.0, 0.15),
        grooves=(
            Groove({"kick": "X...x...", "snare": "..X...X.", "hat": "xgxg"}, "1-..5-..", "..x...x.", "xxxxxxxx",
                   steps=2),
            Groove({"kick": "X.....", "snare": "..x.x.", "hat": "x.x.x."}, "1-....", "..x.x.", "x.xxx.", (3, 4),
                   steps=2),
        ),
        major_progressions=("I | IV | I | V", "I | I | IV | I | V | V | I | I", "I | V | IV | I"),
        minor_progressions=("i | bVII | i | V", "i | iv | i | bVII"), kits=("brush", "acoustic"), bass=("bass",),
        comp=("strum", ("guitar",)), comp2=("arp", ("guitar",)), lead=("string", "guitar"),
        techniques=("straight", "vibrato"),
    ),
    "disco": Style(
        tempo=(112, 128), minor=0.55, vocals=0.5, touch_s=0.002, drums_db=2.0, tone=(2.0, 0.15),
        grooves=(
            Groove(FOUR_ON_FLOOR, "1.8." * 4, "..x...x...x.x.x.", "x-------x-------"),
            Groove({**FOUR_ON_FLOOR, "clap": "....x.......x..."}, "1..81.8.1..81.58", "x.xx.xx.x.xx.xx.",
                   "x-------" * 2),
        ),
        major_progressions=("I | vi | ii | V", "Imaj7 | IVmaj7 | ii7 | V7", "I | IV | ii | V"),
        minor_progressions=("i | bVII | bVI | V", "i7 | iv7 | bVII | bIII", "i | i | iv | V"), kits=("disco",),
        bass=("bass", "synth_lead"), comp=("strum", ("guitar", "keyboard")), pad=("string",),
        comp2=("block", ("brass", "string")), lead=("string", "synth_lead", "brass"), techniques=("belt", "vibrato"),
    ),
    "hiphop": Style(
        tempo=(72, 102), minor=0.8, swing=(0.02, 0.09), vocals=0.6, drums_db=3.0, melody_density=0.35, tone=(0.0, 0.1),
        grooves=(
            Groove({"kick": "X..x..x...x.....", "snare": "....X.......X..g", "hat": "x.x." * 4}, "1-----.1..1-....",
                   "x-------........", "......x...x....."),
            Groove({"kick": "X......x.xX.....", "clap": "........X.......", "hat": "x.x.x.xxx.x.xxxx"},
                   "1-------..1-5---", "x---..x---..x---", "..x.....x......."),
        ),
        major_progressions=("Imaj7 | Imaj7 | vi7 | vi7", "I | IV | I | IV"),
        minor_progressions=("i | i | bVI | V", "i7 | iv7 | i7 | iv7", "i | bVI | i | bVII"), kits=("drum_machine",),
        bass=("bass",), comp=("block", ("keyboard", "mallet")), comp2=("arp", ("mallet", "flute")),
        lead=("synth_lead", "flute"), techniques=("spoken",), forms=("intro verse verse chorus verse chorus",),
    ),
    "jazz": Style(
        tempo=(96, 216), minor=0.35, swing=(0.1, 0.17), vocals=0.2, drums_db=-4.0, melody_density=0.65,
        tone=(-2.0, 0.25),
        grooves=(
            Groove({"ride": "x.xgx.xg", "pedal_hat": "..x...x.", "kick": "g.......", "snare": ".....g.."}, "1-3-5-a-",
                   "x..x....", "...x..x.", steps=2),
            Groove({"ride": "x.xgxg", "pedal_hat": "..x.x.", "kick": "g....."}, "1-5-3-", "..x..x", ".x-...", (3, 4),
                   steps=2),
        ),
        major_progressions=("ii7 | V7 | Imaj7 | Imaj7", "Imaj7 vi7 | ii7 V7 | Imaj7 vi7 | ii7 V7",
                            "Imaj7 | IVmaj7 | ii7 V7 | I6"),
        minor_progressions=("iim7b5 | V7 | i7 | i7", "i7 | iv7 | iim7b5 V7 | i7"), kits=("brush",), bass=("bass",),
        comp=("block", ("keyboard", "guitar")), comp2=("block", ("mallet",)),
        lead=("reed", "brass", "mallet", "keyboard"), techniques=("straight", "breathy"),
        forms=("verse solo solo verse",),
    ),
    "metal": Style(
        tempo=(104, 188), minor=0.95, vocals=0.45, drive=0.9, lead_drive=0.8, touch_s=0.002, drums_db=1.0,
        tone=(1.0, 0.08),
        grooves=(
            Groove({"kick": "X.xxX.xxX.xxX.xx", "snare": "....X.......X...", "crash": "X...............",
                    "ride": "x..." * 4}, "1.111.111.111.11", "x.xxx.xxx.xxx.xx", "x---------------"),
            Groove({"kick": "xxxxxxxxxxxxxxxx", "snare": "....X.......X...", "ride": "X..." * 4}, "1-11" * 4,
                   "x-xx" * 4, "x---------------"),
            Groove({"kick": "X.....X.X.......", "snare": "........X.......", "china": "x...x...x...x..."},
                   "1-....1-1---....", "x-....x-x---....", "x---------------"),
        ),
        major_progressions=("I | bVII | IV | I",),
        minor_progressions=("i | i | bVI | bVII", "i | bVI | bIII | bVII", "i | i | iv | V"), kits=("heavy",),
        bass=("bass",), comp=("power", ("guitar",)), comp2=("power", ("guitar",)), lead=("guitar",),
        techniques=("belt", "vocal_fry"),
    ),
    "pop": Style(
        tempo=(88, 130), minor=0.35, vocals=0.85, touch_s=0.003, drums_db=1.0, tone=(1.5, 0.15),
        grooves=(
            Groove({"kick": "X.....x.X.......", "snare": "....X.......X...", "hat": "x.x." * 4}, "1.1.1.1.1.1.1.1.",
                   "x-------x-----x-", "x.x.x.x.x.x.x.x."),
            Groove({"kick": "X..x..x.X..x....", "clap": "....X.......X...", "shaker": "xgxg" * 4}, "1--1--1-1--1--5-",
                   "x--x--x-x--x--x-", "x...x...x...x..."),
        ),
        major_progressions=("I | V | vi | IV", "I | vi | IV | V", "I | IV | vi | V", "I | iii | IV | V"),
        minor_progressions=("i | bVI | bIII | bVII", "i | iv | bVI | bVII", "i | bVII | bVI | V"),
        kits=("disco", "drum_machine", "acoustic"), bass=("bass", "synth_lead"),
        comp=("block", ("keyboard", "synth_lead")), comp2=("arp", ("guitar", "synth_lead", "mallet")),
        pad=("synth_lead", "string", "vocal"), lead=("synth_lead", "guitar", "mallet"),
        techniques=("straight", "breathy", "vibrato"),
    ),
    "reggae": Style(
        tempo=(66, 92), minor=0.5, swing=(0.0, 0.1), vocals=0.6, tone=(-2.5, 0.2),
        grooves=(
            Groove({"kick": "........X.......", "rim": "........X.......", "hat": "x.x.x.x.x.x.x.x."},
                   "1-.1-.3-5-....5.", "....x.......x...", "..x...x...x...x."),
            Groove({"kick": "X...X...X...X...", "rim": "........x.......", "hat": "..x...x...x...x."},
                   "....1-3-5-..8-5-", "....x.......x...", "....x-......x-.."),
        ),
        major_progressions=("I | IV | I | IV", "I | V | IV | I", "I | ii | I | ii"),
        minor_progressions=("i | iv | i | iv", "i | bVII | i | bVII", "i | i | iv | i"), kits=("acoustic",),
        bass=("bass",), comp=("strum", ("guitar",)), comp2=("block", ("organ",)), lead=("brass", "organ", "reed"),
        techniques=("straight", "vibrato"),
    ),
    "rock": Style(
        tempo=(98, 158), minor=0.4, vocals=0.6, drive=0.55, lead_drive=0.6, touch_s=0.005, drums_db=1.0,
        pentatonic=True,
        grooves=(
            Groove({"kick": "X...xx..", "snare": "..X...X.", "hat": "XxXxXxXx"}, "11111111", "x-x-xxx-", "x-------",
                   steps=2),
            Groove({"kick": "X..x..x.", "snare": "..X...X.", "open_hat": "x.x.x.x."}, "1-1-1-15", "x-----x-",
                   "x.xxx.xx", steps=2),
            Groove({"kick": "X..x..", "snare": "...X..", "hat": "xxxxxx"}, "1-1-15", "x--x--", "xxxxxx", (6, 8),
                   steps=3),
        ),
        major_progressions=("I | bVII | IV | I", "I | V | IV | IV", "I | IV | V | IV", "I | vi | IV | V"),
        minor_progressions=("i | bVII | bVI | bVII", "i | bIII | bVII | iv", "i | bVI | bVII | i"),
        kits=("acoustic", "heavy"), bass=("bass",), comp=("power", ("guitar",)), comp2=("strum", ("guitar", "organ")),
        lead=("guitar",), techniques=("belt", "straight"),
    ),
}  # fmt: skip
