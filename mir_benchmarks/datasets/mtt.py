"""MagnaTagATune: the 50 most frequent of 188 tags for clips of 29 s, split by folder."""

import re
from collections.abc import Iterator
from pathlib import Path

from mir_benchmarks.datasets.dataset import Dataset, Item
from mir_benchmarks.datasets.reading import audio_at, bad_row, class_notes, find, leak_notes, read_table
from mir_benchmarks.datasets.splits import mtt_tags

SPLIT_OF_FOLDER = dict.fromkeys("0123456789ab", "train") | {"c": "valid"} | dict.fromkeys("def", "test")
# Zero bytes in every copy: clips 35644, 55753 and 57881, all of the training set.
EMPTY_FILES = (
    "6/norine_braun-now_and_zen-08-gently-117-146.mp3",
    "8/jacob_heringman-josquin_des_prez_lute_settings-19-gintzler__pater_noster-204-233.mp3",
    "9/american_baroque-dances_and_suites_of_rameau_and_couperin-25-le_petit_rien_xiveme_ordre_couperin-88-117.mp3",
)
NAME = re.compile(r"(?P<artist>[^-]*)-(?P<album>.*)-(?P<track>\d+)-(?P<title>.*)-\d+-\d+")
GET = "get annotations_final.csv of MagnaTagATune (mirg.city.ac.uk)"


def read(home: Path, protocol: dict[str, str]) -> Dataset:
    """The top 50 tags of each clip but three that are empty files; `mtt_untagged` drops clips with none of them."""
    path = find(home, ("annotations_final.csv", "*/annotations_final.csv"), GET)
    items, albums, songs = [], {}, {}
    for item, name in _clips(path, home):
        if not item.label and protocol.get("mtt_untagged") == "drop":
            continue
        items.append(item)
        if name:
            albums[item.id] = f"{item.artist}-{name['album']}"
            songs[item.id] = f"{albums[item.id]}-{name['track']}"
    notes = leak_notes(items, {"albums": albums, "songs": songs}) + class_notes(items, mtt_tags())
    return Dataset(tuple(items), mtt_tags(), tuple(notes))


def _clips(path: Path, home: Path) -> Iterator[tuple[Item, re.Match[str] | None]]:
    """Clips with the facts in their names: artist-album-track-title-start-end, in seconds."""
    tags = mtt_tags()
    for line, row in read_table(path, ("clip_id", *tags, "mp3_path"), "\t", GET):
        file = row["mp3_path"]
        if file in EMPTY_FILES:
            continue
        if (split := SPLIT_OF_FOLDER.get(file.partition("/")[0])) is None:
            raise bad_row(path, line, f"{file!r} is in none of the folders 0 to f", GET)
        if strange := next((tag for tag in tags if row[tag] not in ("0", "1")), None):
            raise bad_row(path, line, f"tag {strange!r} is {row[strange]!r}, neither 0 nor 1", GET)
        name = NAME.fullmatch(Path(file).stem)
        label = tuple(tag for tag in tags if row[tag] == "1")
        yield Item(row["clip_id"], audio_at(home / "mp3" / file), split, label, name["artist"] if name else ""), name
