"""Tags of MagnaTagATune and MTG-Jamendo as rules over the facts of a score (see facts.py).

Where the generator has no such sound (sitar, harp), the tag stands for another audible property: the rule
says which. Synonyms share a rule, as they do in the real corpora.
"""

from mir_benchmarks.synth.styles import STYLES

NO_VOICE = "no voice"
MALE, FEMALE = "voice:male", "voice:female"
BEAT = "kit:disco | kit:drum_machine"
CHOIR = "family:vocal | voice + family:string"
QUIET = "sparse | no drums"

MTT: dict[str, str] = {
    "guitar": "family:guitar", "classical": "style:classical", "slow": "tempo:slow",
    "techno": "dense + kit:disco | dense + kit:drum_machine",
    "strings": "family:string", "drums": "drums", "electronic": "family:synth_lead | kit:drum_machine",
    "rock": "style:rock | style:metal", "fast": "tempo:fast", "piano": "family:keyboard",
    "ambient": "pad:string | pad:synth_lead | pad:vocal", "beat": BEAT, "violin": "lead:string", "vocal": "voice",
    "synth": "family:synth_lead", "female": FEMALE, "indian": "mode:minor + lead:reed | mode:minor + lead:flute",
    "opera": "technique:vibrato", "male": MALE, "singing": "voice + -technique:spoken", "vocals": "voice",
    "no vocals": NO_VOICE, "harpsichord": "keyboard:plucked", "loud": "dense", "quiet": QUIET,
    "flute": "family:flute", "woman": FEMALE, "male vocal": MALE, "no vocal": NO_VOICE, "pop": "style:pop",
    "soft": QUIET, "sitar": "mode:minor + lead:guitar", "solo": "no voice + -comp:guitar", "man": MALE,
    "classic": "style:classical", "choir": CHOIR, "voice": "voice", "new age": "family:mallet",
    "dance": "style:disco", "male voice": MALE, "female vocal": FEMALE, "beats": BEAT, "harp": "way:arp",
    "cello": "bass:string", "no voice": NO_VOICE, "weird": "fm", "country": "style:country", "female voice": FEMALE,
    "metal": "style:metal", "choral": CHOIR,
}  # fmt: skip

GENRE: dict[str, str] = {f"genre---{style}": f"style:{style}" for style in STYLES} | {
    "genre---electronic": "family:synth_lead | kit:drum_machine", "genre---dance": "drums + tempo:fast",
    "genre---ambient": "sparse + -style:metal",
    "genre---instrumentalpop": "style:pop + no voice | style:disco + no voice",
}  # fmt: skip
INSTRUMENT: dict[str, str] = {
    "instrument---piano": "keyboard:piano", "instrument---electricpiano": "keyboard:electric",
    "instrument---electricguitar": "guitar:distorted", "instrument---acousticguitar": "family:guitar + -distorted",
    "instrument---flute": "family:flute", "instrument---saxophone": "family:reed",
    "instrument---trumpet": "family:brass", "instrument---organ": "family:organ",
    "instrument---strings": "family:string", "instrument---synthesizer": "family:synth_lead",
    "instrument---bell": "family:mallet", "instrument---drums": "kit:acoustic | kit:brush | kit:heavy",
    "instrument---drummachine": BEAT, "instrument---voice": "voice",
}  # fmt: skip
MOOD: dict[str, str] = {
    "mood/theme---happy": "mode:major + tempo:fast | mode:major + dense", "mood/theme---sad": "mode:minor + tempo:slow",
    "mood/theme---energetic": "dense", "mood/theme---relaxing": "sparse", "mood/theme---dark": "mode:minor + distorted",
    "mood/theme---calm": "no drums | tempo:slow + sparse", "mood/theme---heavy": "distorted",
    "mood/theme---upbeat": "drums + tempo:fast", "mood/theme---melodic": "sparse + no voice | even + no voice",
    "mood/theme---romantic": "family:string + -distorted", "mood/theme---party": "kit:disco",
}  # fmt: skip
# The tags of most of the tracks, over the three other sets.
TOP50 = ("genre---classical", "genre---disco", "genre---electronic", "genre---dance", "genre---ambient", "genre---pop",
         "genre---rock", "genre---jazz", "instrument---piano", "instrument---electricguitar",
         "instrument---acousticguitar", "instrument---strings", "instrument---synthesizer", "instrument---drums",
         "instrument---drummachine", "instrument---voice", "mood/theme---happy", "mood/theme---energetic",
         "mood/theme---relaxing", "mood/theme---melodic")  # fmt: skip
# 138 further columns, all zero but for clips that show them: the real file has 188.
RARE_MTT = tuple(f"rare {number:03d}" for number in range(1, 139))
