"""Readers, on small trees typed by hand from what the real datasets hold, and on the real split files at hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from harness.planting import by_split, plant, refused
from harness.sounds import REFERENCE, needs_reference

from mir_benchmarks.datasets import giantsteps, gtzan, mtt, splits

# --- what is shipped ---


@needs_reference
def test_shipped_lists_are_the_published_ones() -> None:
    for split, n in (("train", 443), ("valid", 197), ("test", 290)):
        lines = (REFERENCE / "gtzan" / f"{split}_filtered.txt").read_text().split()
        ours = [name for name, of in splits.gtzan_splits().items() if of == split]
        assert [f"{name.partition('.')[0]}/{name}.wav" for name in ours] == lines and len(lines) == n
    assert [tag.replace(" ", "") for tag in splits.mtt_tags()] == [
        tag.lower() for tag in (REFERENCE / "mtt" / "top50_tags.txt").read_text().split()
    ]
    published = yaml.safe_load((REFERENCE / "musdb18" / "mus.yaml").read_text())["validation_tracks"]
    assert splits.musdb_validation() == set(published) and len(published) == 14
    facts = json.loads((REFERENCE / "vocalset" / "facts.json").read_text())
    assert splits.vocalset()["techniques"] == facts["all_techniques"]
    assert splits.vocalset()["task_techniques"] == facts["technique_task_classes"]
    assert ["/" + name for name in splits.vocalset()["deletions"]] == facts["deletes"] and len(facts["deletes"]) == 5
    renames = {("/" + old, f"/{old.partition('/')[0]}/{new}") for old, new in splits.vocalset()["renames"].items()}
    assert renames == set(map(tuple, facts["renames"])) and len(renames) == 28
    parts = splits.vocalset_technique_splits()
    assert {singer for singer, split in parts.items() if split == "test"} == set(facts["technique_test_singers"])
    assert {s for s, split in parts.items() if split != "test"} == set(facts["technique_trainvalid_singers"])


def test_our_vocalset_splits_have_the_proportions_of_the_paper() -> None:
    parts = splits.vocalset_technique_splits()
    assert len(parts) == 20
    for split, women, men in (("train", 4, 5), ("valid", 3, 3), ("test", 2, 3)):
        singers = [singer[0] for singer, of in parts.items() if of == split]
        assert (singers.count("f"), singers.count("m")) == (women, men)
    rows = splits.vocalset_singer_splits()
    assert [rows.count(split) for split in ("train", "valid", "test")] == [12, 8, 5]


def test_mtt_tags_are_spelled_as_in_the_annotations() -> None:
    tags = splits.mtt_tags()
    assert len(set(tags)) == 50 and {"no vocals", "male vocal", "new age", "female voice", "no voice"} <= set(tags)


# --- GTZAN ---

EXCERPTS = {"train": "blues.00029", "valid": "blues.00000", "test": "blues.00012"}
GTZAN = {f"genres/blues/{name}.wav": "" for name in (*EXCERPTS.values(), "blues.99999")} | {
    "genres/jazz/jazz.00054.wav": "", "genres/pop/pop.00015.wav": "",
}  # fmt: skip


def test_gtzan_genre(tmp_path: Path) -> None:
    dataset = gtzan.read_genre(plant(tmp_path, GTZAN), {"gtzan_jazz54": "keep"})
    assert by_split(dataset) == {
        "train": [("blues.00029", "blues"), ("jazz.00054", "jazz")],
        "valid": [("blues.00000", "blues")],
        "test": [("blues.00012", "blues")],
    }
    assert " ".join(dataset.classes) == "blues classical country disco hiphop jazz metal pop reggae rock"
    assert dataset.items[0].audio.is_file() and len(dataset.facts["absent"]) == 926
    dropped = gtzan.read_genre(tmp_path, {"gtzan_jazz54": "drop"})
    assert [item.id for item in dropped.split("train")] == ["blues.00029"]


@pytest.mark.parametrize("root", ["genres_original/", "Data/genres_original/", ""])
def test_gtzan_as_mirrors_unpack_it(tmp_path: Path, root: str) -> None:
    home = plant(tmp_path, {f"{root}blues/blues.00029.wav": "", f"{root}blues/blues.00012.au": ""})
    assert {item.id for item in gtzan.read_genre(home, {}).items} == {"blues.00029", "blues.00012"}


JAMS = {
    "file_metadata": {"title": "blues.00012"},
    "annotations": [
        {"namespace": "tempo", "data": [{"time": 0.0, "duration": 30.0, "value": 120.0, "confidence": 1.0}]},
        {"namespace": "beat", "sandbox": {"annotation_type": "downbeat"}, "data": [{"time": 1.2, "value": 1}]},
        {"namespace": "beat", "sandbox": {"annotation_type": "beat"}, "data": [
            {"time": 0.7, "duration": 0.0, "value": 4, "confidence": None},
            {"time": 1.2, "duration": 0.0, "value": 1, "confidence": None}]},
    ],
}  # fmt: skip


def test_gtzan_beats_with_tabs_blanks_and_no_positions(tmp_path: Path) -> None:
    home = plant(tmp_path, GTZAN | {
        "gtzan_tempo_beat-main/beats/gtzan_blues_00029.beats": "0.217\t3\n0.717\t4\n1.217\t1\n\n",
        "gtzan_tempo_beat-main/beats/gtzan_blues_00000.beats": " 0.5 1\r\n1.0 2\r\n30.48 3",
        "gtzan_tempo_beat-main/beats/gtzan_blues_00012.beats": "0.25\n0.75\n",
    })  # fmt: skip
    dataset = gtzan.read_beats(home, {})
    assert by_split(dataset) == {
        "train": [("blues.00029", (0.217, 0.717, 1.217))],
        "valid": [("blues.00000", (0.5, 1.0, 30.48))],
        "test": [("blues.00012", (0.25, 0.75))],
    }
    assert dataset.facts["downbeats"] == {"blues.00029": (1.217,), "blues.00000": (0.5,)}
    assert dataset.facts["unannotated"] == ["jazz.00054"] and "pop.00000" in dataset.facts["absent"]


def test_gtzan_beats_from_jams(tmp_path: Path) -> None:
    home = plant(tmp_path, GTZAN | {"jams/blues.00012.wav.jams": json.dumps(JAMS)})
    dataset = gtzan.read_beats(home, {})
    assert by_split(dataset)["test"] == [("blues.00012", (0.7, 1.2))]
    assert dataset.facts["downbeats"] == {"blues.00012": (1.2,)}


def test_gtzan_says_what_is_wrong(tmp_path: Path) -> None:
    refused(gtzan.read_genre, tmp_path, "genres/blues", "put the excerpts at genres/<genre>")
    home = plant(tmp_path, GTZAN)
    refused(gtzan.read_beats, home, "beats", "gtzan_tempo_beat")
    beats = home / "beats" / "gtzan_blues_00029.beats"
    for text, reason in (("0.1\t1\nhalf\t2\n", "line 2: 'half' is not a number"), ("-1 1\n", "a beat at -1 s"),
                         ("nan\t1\n", "'nan' is not a number"), ("1 2 3\n", "has 3 columns")):  # fmt: skip
        plant(tmp_path, {"beats/gtzan_blues_00029.beats": text})
        refused(gtzan.read_beats, home, beats.name, reason)
    plant(tmp_path, {"beats/gtzan_blues_00029.beats": "0.1\n", "beats/blues.00012.wav.jams": "{"})
    refused(gtzan.read_beats, home, "blues.00012.wav.jams", "is not JSON")
    plant(tmp_path, {"beats/blues.00012.wav.jams": '{"annotations": []}'})
    refused(gtzan.read_beats, home, "blues.00012.wav.jams", "holds no beats")


# --- GiantSteps ---

# Splits by hash, worked out by hand with sha1sum and bc: Nina Kraviz 107, Tiësto 105; all others below 100.
TRACKS = """\
ID\tARTIST\tSONG TITLE\tMIX\tLABEL\tBP GENRE\tBP BPM\tBP KEY
5061\tNina Kraviz\tGhetto\tOriginal\tR\ttechno\t125\tD#min
5881\tCarl Cox, Nina Kraviz\tB2B\tOriginal\tR\ttechno\t130\tAmaj
7217\t Carl Cox \tFire\tOriginal\tR\ttechno\t130\tFmin
10359\tEric Prydz,Moby\tGo\tOriginal\tR\thouse\t126\tDmin
10981\tMoby, Tiësto\tIn\tOriginal\tR\ttrance\t136\tCmin
11077\tGuy J, Hernan Cattaneo\tLost\tOriginal\tR\thouse\t122\tGmin
11194\tÂme\tRej\tOriginal\tR\thouse\t124\tDmin
14344\tBonobo\tKiara\tOriginal\tR\tchill\t100\tDmin
14720\tBonobo\tKong\tOriginal\tR\tchill\t100\tDmin
"""
MANUAL = """\
ID\tMANUAL KEY\tC
5061\tD# minor\t2
5881\tA major\t2
7217\tF minor\t2
10359\tD minor\t2
10981\t-\t0
11077\tG minor\t2
11194\tC# major \t2
14344\tC minor / F# minor\t2
14720\tA minor\t1
"""
MTG, KEY = "giantsteps-mtg-key-dataset", "giantsteps-key-dataset"
GIANTSTEPS = {
    f"{MTG}/annotations/annotations.txt": MANUAL, f"{MTG}/annotations/beatport_metadata.txt": TRACKS,
    f"{KEY}/annotations/key/10089.LOFI.key": "D major\n", f"{KEY}/annotations/key/61415.LOFI.key": "G# minor",
    f"{KEY}/annotations/key/74982.LOFI.key": "d minor\t2\tcomment, modulates to A major\r\n",
}  # fmt: skip


def test_giantsteps(tmp_path: Path) -> None:
    dataset = giantsteps.read(plant(tmp_path, GIANTSTEPS | {f"{KEY}/audio/61415.LOFI.wav": ""}), {})
    assert by_split(dataset) == {
        "train": [("11077", "G minor"), ("11194", "Db major")],
        "valid": [("5061", "Eb minor"), ("5881", "A major"), ("7217", "F minor"), ("10359", "D minor")],
        "test": [("10089", "D major"), ("61415", "Ab minor"), ("74982", "D minor")],
    }
    assert " ".join(dataset.classes).startswith("C major Db major D major Eb major E major F major Gb major G major Ab")
    assert dataset.classes[12:] == tuple(name.replace("major", "minor") for name in dataset.classes[:12])
    places = {item.id: item.audio.relative_to(tmp_path).as_posix() for item in dataset.items}
    assert places["5061"] == f"{MTG}/audio/5061.LOFI.mp3" and places["10089"] == f"{KEY}/audio/10089.LOFI.mp3"
    assert places["61415"] == f"{KEY}/audio/61415.LOFI.wav"


def test_giantsteps_collaborators_follow_for_two_rounds() -> None:
    named = ["Nina Kraviz", "Carl Cox", "Eric Prydz", "Moby", "Tiësto", "Guy J", "Hernan Cattaneo", "Âme", "Bonobo"]
    alone = giantsteps.artist_splits(named)
    assert [name for name, split in alone.items() if split == "valid"] == ["Nina Kraviz", "Tiësto"]
    chain = giantsteps.artist_splits(["Bonobo, Guy J", "Guy J, Moby", "Moby, Tiësto", "Tiësto, Âme", "Âme, Carl Cox"])
    # Forward a chain is followed to its end in one round; backward one link in each round.
    assert [name for name, split in chain.items() if split == "train"] == ["Bonobo"]


def test_giantsteps_from_archives_named_by_commit(tmp_path: Path) -> None:
    home = plant(tmp_path, {name.replace("dataset/", "dataset-fd7b8c58/"): text for name, text in GIANTSTEPS.items()})
    assert giantsteps.read(home, {}).counts == {"train": 2, "valid": 4, "test": 3}
    for name in (KEY, MTG):  # what they were unpacked from
        (home / f"{name}-fd7b8c57.zip").write_bytes(b"PK")
    assert giantsteps.read(home, {}).counts == {"train": 2, "valid": 4, "test": 3}


def test_giantsteps_says_what_is_wrong(tmp_path: Path) -> None:
    refused(giantsteps.read, tmp_path, "giantsteps-mtg-key-dataset", "clone")
    home = plant(tmp_path, GIANTSTEPS)
    annotations, metadata = f"{MTG}/annotations/annotations.txt", f"{MTG}/annotations/beatport_metadata.txt"
    for name, text, words in (
        (f"{KEY}/annotations/key/10089.LOFI.key", "H minor", ("10089.LOFI.key, line 1", "no key 'H minor'")),
        (annotations, MANUAL.replace("G minor", "G mixolydian"), ("annotations.txt, line 7", "G mixolydian")),
        (annotations, MANUAL.replace("MANUAL KEY", "KEY"), ("annotations.txt, line 1", "'MANUAL KEY'")),
        (annotations, MANUAL.replace("A major\t2", "A major"), ("annotations.txt, line 3", "has 2 of 3 cells")),
        (annotations, MANUAL + "99999\tC major\t2\n", ("line 11", "99999 is not in beatport_metadata.txt")),
        (metadata, TRACKS.replace("ARTIST", "DJ"), ("beatport_metadata.txt, line 1", "'ARTIST'", "clone")),
    ):  # fmt: skip
        plant(home, {name: text})
        refused(giantsteps.read, home, *words)
        plant(home, GIANTSTEPS)
    (home / metadata).write_bytes(b"ID\tARTIST\n1\t\xff\xfe\n")
    refused(giantsteps.read, home, "beatport_metadata.txt", "is not UTF-8 text")
    (home / metadata).unlink()
    refused(giantsteps.read, home, "beatport_metadata.txt", "No such file", "clone")


# --- MagnaTagATune ---


def annotations(*rows: tuple[str, str, str]) -> str:
    """annotations_final.csv of (clip, tags with commas, path): all cells quoted, tags in another order than ours."""
    tags = [*sorted(splits.mtt_tags(), reverse=True), "no piano", "happy"]
    lines = [("clip_id", *tags, "mp3_path")]
    lines += [(clip, *("1" if tag in has.split(",") else "0" for tag in tags), path) for clip, has, path in rows]
    return "".join("\t".join(f'"{cell}"' for cell in line) + "\n" for line in lines)


BACH = "american_bach_soloists-j_s__bach__cantatas_volume_v-01-gleichwie_bwv18_i_sinfonia"
CLIPS = (
    ("2", "classical,strings,opera,violin", f"f/{BACH}-30-59.mp3"),
    ("6", "classical,violin,no piano", f"f/{BACH}-146-175.mp3"),
    ("10", "happy", "0/american_bach_soloists-heinrich_schutz__musicalische_exequien-02-ii-0-29.mp3"),
    ("11", "no vocals,new age", "b/tilopa-pictures_of_silence-10-waterdrops-88-117.mp3"),
    ("12", "female voice", "c/ambient_teknology-phoenix-07-ruby-1-30.mp3"),
    ("35644", "pop", "6/norine_braun-now_and_zen-08-gently-117-146.mp3"),
)


def test_mtt(tmp_path: Path) -> None:
    home = plant(tmp_path, {"annotations_final.csv": annotations(*CLIPS)})
    dataset = mtt.read(home, {"mtt_untagged": "keep"})
    assert by_split(dataset) == {
        "train": [("10", ()), ("11", ("no vocals", "new age"))],
        "valid": [("12", ("female voice",))],
        "test": [("2", ("classical", "strings", "violin", "opera")), ("6", ("classical", "violin"))],
    }
    assert len(dataset.classes) == 50 and dataset.items[0].audio == home / "mp3" / f"f/{BACH}-30-59.mp3"
    assert dataset.items[0].artist == "american_bach_soloists"
    assert dataset.notes[0] == "1 of the 1 test artists also occur in train"
    assert not any("albums" in note or "songs" in note for note in dataset.notes)
    assert mtt.read(home, {"mtt_untagged": "drop"}).counts == {"train": 1, "valid": 1, "test": 2}


def test_mtt_tells_of_songs_in_two_splits(tmp_path: Path) -> None:
    rows = (*CLIPS, ("13", "violin", f"1/{BACH}-0-29.mp3"))
    notes = mtt.read(plant(tmp_path, {"annotations_final.csv": annotations(*rows)}), {}).notes
    assert (
        "1 of the 1 test albums also occur in train" in notes and "1 of the 1 test songs also occur in train" in notes
    )


def test_mtt_says_what_is_wrong(tmp_path: Path) -> None:
    refused(mtt.read, tmp_path, "annotations_final.csv", "mirg.city.ac.uk")
    good = annotations(*CLIPS)
    for text, words in (
        (good.replace('"new age"', '"newAge"'), ("annotations_final.csv, line 1", "'new age'")),
        (good.replace('"1"\t', '"yes"\t', 1), ("line 2", "'yes', neither 0 nor 1")),
        (good.replace("c/ambient", "g/ambient"), ("line 6", "none of the folders 0 to f")),
        (good + '"14"\t"0"\n', ("line 8", "has 2 of 54 cells")),
        ("", ("line 1", "there is no column 'clip_id'")),
    ):
        plant(tmp_path, {"annotations_final.csv": text})
        refused(mtt.read, tmp_path, *words)
