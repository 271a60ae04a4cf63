"""Readers, on small trees typed by hand from what the real datasets hold, and on the real split files at hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from conftest import SHARED
from planting import by_split, plant, refused

from mir_benchmarks import splits
from mir_benchmarks.readers import gtzan

needs_reference = pytest.mark.skipif(not SHARED.exists(), reason="the reference folder is not here")


# --- what is shipped ---


@needs_reference
def test_shipped_lists_are_the_published_ones() -> None:
    for split, n in (("train", 443), ("valid", 197), ("test", 290)):
        lines = (SHARED / "gtzan" / f"{split}_filtered.txt").read_text().split()
        ours = [name for name, of in splits.gtzan_splits().items() if of == split]
        assert [f"{name.partition('.')[0]}/{name}.wav" for name in ours] == lines and len(lines) == n
    assert [tag.replace(" ", "") for tag in splits.mtt_tags()] == [
        tag.lower() for tag in (SHARED / "mtt" / "top50_tags.txt").read_text().split()
    ]
    published = yaml.safe_load((SHARED / "musdb18" / "mus.yaml").read_text())["validation_tracks"]
    assert splits.musdb_validation() == set(published) and len(published) == 14
    facts = json.loads((SHARED / "vocalset" / "facts.json").read_text())
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
    assert [item.id for item in gtzan.read_genre(home, {}).items] == ["blues.00029"]


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
    assert "jazz.00054" in dataset.facts["absent"]


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
