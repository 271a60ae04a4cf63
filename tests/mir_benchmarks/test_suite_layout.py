"""The generated corpora on paper: places and annotation formats as typed by hand, splits by the published rules."""

from __future__ import annotations

import csv
import hashlib
import itertools
import json
import re
from functools import cache
from pathlib import Path

import pytest

from mir_benchmarks.datasets.splits import gtzan_splits, mtt_tags, musdb_validation
from mir_benchmarks.suite.facts import facts_of
from mir_benchmarks.suite.jamendo import ALL
from mir_benchmarks.suite.plans import CORPORA, CorpusPlan, PlannedClip
from mir_benchmarks.suite.sizes import SIZES
from mir_benchmarks.suite.write import plan_corpus
from mir_benchmarks.tasks.registry import TASKS


@cache
def tiny(name: str) -> CorpusPlan:
    return plan_corpus(name, SIZES["tiny"][name])


@cache
def small(name: str) -> CorpusPlan:
    return plan_corpus(name, SIZES["small"][name], seed=3)


# A place of each kind of file, as it is in the real corpora.
PLACES = {
    "gtzan": [r"genres/(\w+)/\1\.000\d\d\.wav", r"beats/gtzan_[a-z]+_000\d\d\.beats"],
    "giantsteps": [r"giantsteps-key-dataset/audio/\d+\.LOFI\.mp3", r"giantsteps-mtg-key-dataset/audio/\d+\.LOFI\.mp3",
                   r"giantsteps-key-dataset/annotations/key/\d+\.LOFI\.key",
                   r"giantsteps-mtg-key-dataset/annotations/(annotations|beatport_metadata)\.txt"],
    "magnatagatune": [r"mp3/[0-9a-f]/\w+-\w+-\d\d-\w+-\d+-\d+\.mp3", r"annotations_final\.csv"],
    "emomusic": [r"clips_45seconds/\d+\.mp3", r"annotations/(songs_info|static_annotations)\.csv"],
    "nsynth": [r"nsynth-(train|valid|test)/audio/[a-z_]+_(acoustic|electronic|synthetic)_\d{3}-\d{3}-\d{3}\.wav",
               r"nsynth-(train|valid|test)/examples\.json"],
    "vocalset": [r"FULL/(fe)?male\d+/(arpeggios|scales|long_tones)/(\w+)/[fm]\d+_\2_\3_[cf]_[aeiou]\.wav"],
    "mtg-jamendo": [r"audio-low/\d\d/\d+\.low\.mp3",
                    r"data/splits/split-0/autotagging_(genre|instrument|moodtheme|top50tags)-(train|validation|test)\.tsv"],
    "musdb18": [r"(train|test)/[^/]+ - [^/]+/(mixture|drums|bass|other|vocals)\.wav"],
}  # fmt: skip


def rows(plan: CorpusPlan, path: str, delimiter: str = "\t") -> list[list[str]]:
    return list(csv.reader(plan.texts[path].splitlines(), delimiter=delimiter))


def scores(plan: CorpusPlan) -> dict[str, PlannedClip]:
    return {clip.path: clip for clip in plan.recordings if isinstance(clip, PlannedClip)}


@pytest.mark.parametrize("name", CORPORA)
def test_places(name: str) -> None:
    paths = [path for recording in tiny(name).recordings for path in recording.paths]
    assert len(set(paths)) == len(paths) and len(tiny(name).recordings) == len(SIZES["tiny"][name])
    for path in [*paths, *tiny(name).texts]:
        assert any(re.fullmatch(place, path) for place in PLACES[name]), path
    for place in PLACES[name]:
        assert any(re.fullmatch(place, path) for path in [*paths, *tiny(name).texts]), place


@pytest.mark.parametrize("size", ["tiny", pytest.param("small", marks=pytest.mark.check)])
@pytest.mark.parametrize("task", TASKS)
def test_readers_find_what_was_planned(task: str, size: str, tmp_path: Path) -> None:
    """Readers decode no audio, so files that only stand for it will do."""
    spec = TASKS[task]
    plan = tiny(spec.corpus) if size == "tiny" else small(spec.corpus)
    stand_ins = {path: "x" for recording in plan.recordings for path in recording.paths}
    for path, text in (stand_ins | plan.texts).items():
        file = tmp_path / spec.corpus / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text.encode())
    dataset = spec.read(tmp_path)
    assert dataset.counts == plan.counts[task]
    assert size == "tiny" or spec.corpus in {"musdb18", "vocalset"} or dataset.counts["test"] >= 96
    assert {item.audio for item in dataset.items} <= {tmp_path / spec.corpus / path for path in stand_ins}
    if spec.kind == "multilabel":
        for split in ("train", "valid", "test"):
            labels = [set(item.label) for item in dataset.split(split)]  # type: ignore[arg-type]
            for tag in dataset.classes:
                assert 0 < sum(tag in label for label in labels) < len(labels), (split, tag)


def test_sizes() -> None:
    """Tiny ones for tests; small ones for intervals that mean something, in three hours."""
    for size, corpora in SIZES.items():
        assert tuple(corpora) == CORPORA
        seconds = sum(len(extent) * extent.seconds for extent in corpora.values())
        assert seconds <= {"tiny": 1_500, "small": 3 * 3600, "sampled": 3.3 * 3600}[size]


def test_gtzan_goes_by_the_official_lists() -> None:
    plan = tiny("gtzan")
    names = [Path(path).stem for path in scores(plan)]
    assert {gtzan_splits()[name] for name in names} == {"train", "valid", "test"}
    styles = {clip.score.style for clip in plan.recordings if isinstance(clip, PlannedClip)}
    assert styles == {name.partition(".")[0] for name in names} and len(styles) == 10
    for path, clip in scores(plan).items():
        assert clip.score.style == path.split("/")[1]
        text = plan.texts[f"beats/gtzan_{Path(path).stem.replace('.', '_')}.beats"]
        beats = [(float(line.split("\t")[0]), int(line.split("\t")[1])) for line in text.splitlines()]
        assert beats == [(round(time, 3), position) for time, position in clip.score.beats]
        assert len(beats) > 3 and all(b > a for (a, _), (b, _) in itertools.pairwise(beats))


def test_giantsteps_files() -> None:
    plan, root = tiny("giantsteps"), "giantsteps-mtg-key-dataset"
    keys = rows(plan, f"{root}/annotations/annotations.txt")
    assert keys[0] == ["ID", "MANUAL KEY", "C"] and keys[1] == ["10001", "C minor", "2"]
    assert {row[2] for row in keys[1:]} == {"1", "2"} and sum("/" in row[1] for row in keys) == 1
    metadata = rows(plan, f"{root}/annotations/beatport_metadata.txt")
    assert metadata[0] == ["ID", "ARTIST", "SONG TITLE", "MIX", "LABEL", "BP GENRE", "BP BPM", "BP KEY"]
    artists = {row[0]: row[1] for row in metadata[1:]}
    sure = [row[0] for row in keys[1:] if row[2] == "2" and "/" not in row[1]]
    hashed = [int(hashlib.sha1(artists[track].lower().encode()).hexdigest(), 16) % 116 < 100 for track in sure]
    assert hashed.count(True) == 24 and hashed.count(False) == 8
    assert {row[1] for row in keys[1:25]} >= {"C# major", "A# minor", "D minor"}
    for path, clip in scores(plan).items():
        if "giantsteps-key-dataset" in path:
            key = plan.texts[path.replace("audio", "annotations/key").replace(".mp3", ".key")]
            assert key == clip.score.key + "\n" and re.fullmatch(r"[A-G]b? (major|minor)\n", key)
        else:
            spelled = {row[0]: row[1] for row in keys[1:]}[Path(path).name.split(".")[0]]
            flats = {"C#": "Db", "D#": "Eb", "F#": "Gb", "G#": "Ab", "A#": "Bb"}
            assert clip.score.key == " ".join(flats.get(word, word) for word in spelled.split())


def test_magnatagatune_table() -> None:
    plan = tiny("magnatagatune")
    lines = plan.texts["annotations_final.csv"].splitlines()
    assert lines[0].startswith('"clip_id"\t"') and lines[0].endswith('\t"mp3_path"') and lines[1].count("\t") == 189
    header, *table = rows(plan, "annotations_final.csv")
    assert set(mtt_tags()) <= set(header) and len(header) == 190
    for row in table:
        values = dict(zip(header, row, strict=True))
        facts = facts_of(scores(plan)[f"mp3/{values['mp3_path']}"].score)
        told = {tag for tag in mtt_tags() if values[tag] == "1"}
        for tag, fact in (("male voice", "voice:male"), ("no voice", "no voice"), ("flute", "family:flute"),
                          ("slow", "tempo:slow"), ("metal", "style:metal"), ("drums", "drums")):  # fmt: skip
            assert (tag in told) == (fact in facts)
        assert ("vocal" in told) != ("no vocal" in told)


def test_emomusic_tables() -> None:
    plan = tiny("emomusic")
    songs = rows(plan, "annotations/songs_info.csv", ",")
    assert songs[0] == ["song_id", "file_name", "Artist", "Song title", "start of the segment (min.sec)",
                        "end of the segment (min.sec)", "Genre", "Mediaeval 2013 set"]  # fmt: skip
    development = [row for row in songs[1:] if row[7].strip() == "development"]
    keys = [re.sub("[^a-z ]", "", row[2].strip().lower()) for row in development]
    train = [int(hashlib.sha1(key.encode()).hexdigest(), 16) % 10 < 8 for key in keys]
    assert (train.count(True), train.count(False), len(songs) - 1 - len(development)) == (20, 8, 10)
    values = rows(plan, "annotations/static_annotations.csv", ",")
    assert values[0] == ["song_id", "mean_arousal", "std_arousal", "mean_valence", "std_valence"]
    assert all(1 <= float(row[i]) <= 9 for row in values[1:] for i in (1, 3))
    assert [row[0] for row in values] == [row[0] for row in songs]


def test_nsynth_examples() -> None:
    plan = tiny("nsynth")
    examples = {split: json.loads(plan.texts[f"nsynth-{split}/examples.json"]) for split in ("train", "valid", "test")}
    heard = {split: {row["instrument"] for row in notes.values()} for split, notes in examples.items()}
    assert not heard["train"] & (heard["valid"] | heard["test"])
    for split, notes in examples.items():
        for name, row in notes.items():
            assert list(row) == ["note", "note_str", "instrument", "instrument_str", "pitch", "velocity", "sample_rate",
                                 "qualities", "qualities_str", "instrument_family", "instrument_family_str",
                                 "instrument_source", "instrument_source_str"]  # fmt: skip
            assert name == row["note_str"] == f"{row['instrument_str']}-{row['pitch']:03d}-{row['velocity']:03d}"
            assert len(row["qualities"]) == 10 and sum(row["qualities"]) == len(row["qualities_str"])
        families = {row["instrument_family_str"] for row in notes.values()}
        assert len(families) == (11 if split == "train" else 10) and ("synth_lead" in families) == (split == "train")
    pitches = {split: {row["pitch"] for row in notes.values()} for split, notes in examples.items()}
    assert pitches["test"] | pitches["valid"] <= pitches["train"]


def test_vocalset_covers_both_tasks() -> None:
    paths = [recording.paths[0].split("/") for recording in tiny("vocalset").recordings]
    assert len({path[1] for path in paths}) == 20
    test = {"female2", "female8", "male3", "male5", "male10"}
    for singers in (test, {path[1] for path in paths} - test):
        techniques = {path[3] for path in paths if path[1] in singers}
        assert techniques >= {"belt", "breathy", "inhaled", "lip_trill", "spoken", "straight", "trill", "trillo",
                              "vibrato", "vocal_fry"}  # fmt: skip
    assert any(path[3] in ("forte", "pp", "messa", "fast_forte", "slow_piano") for path in paths)
    assert all(recording.seconds > 3.1 for recording in tiny("vocalset").recordings)


def test_jamendo_tables() -> None:
    plan = tiny("mtg-jamendo")
    artists: dict[str, set[str]] = {}
    for path, text in plan.texts.items():
        first, *lines = text.split("\r\n")
        assert first == "TRACK_ID\tARTIST_ID\tALBUM_ID\tPATH\tDURATION\tTAGS" and lines.pop() == ""
        assert "\n" not in text.replace("\r\n", "")
        for line in lines:
            track, artist, album, place, seconds, *tags = line.split("\t")
            assert re.fullmatch(r"track_\d{7} artist_\d{6} album_\d{6}", f"{track} {artist} {album}")
            assert place == f"{int(track[6:]) % 100:02d}/{int(track[6:])}.mp3" and seconds == "4.0"
            assert tags and set(tags) <= set(ALL)
            assert f"audio-low/{place.replace('.mp3', '.low.mp3')}" in scores(plan)
            artists.setdefault(path.rpartition("-")[2], set()).add(artist)
    assert not artists["train.tsv"] & artists["test.tsv"] and not artists["train.tsv"] & artists["validation.tsv"]
    assert not artists["test.tsv"] & artists["validation.tsv"]


def test_musdb_validates_on_official_names() -> None:
    folders = {path.rpartition("/")[0] for recording in tiny("musdb18").recordings for path in recording.paths}
    assert len(folders & {f"train/{name}" for name in musdb_validation()}) == 2
    assert sum(folder.startswith("test/") for folder in folders) == 2
