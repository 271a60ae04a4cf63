"""Readers of emoMusic, NSynth, VocalSet, MTG-Jamendo and MUSDB18, on trees typed by hand; MTG's also on its splits."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from harness.planting import by_split, plant, refused
from harness.sounds import REFERENCE, needs_reference

from mir_benchmarks.datasets import emomusic, jamendo, musdb, nsynth, vocalset
from mir_benchmarks.datasets.dataset import Dataset
from mir_benchmarks.tasks.registry import TASKS

# --- emoMusic ---

# Remainders of the SHA-1 by 10, by sha1sum and bc: kevin macleod 9, rolemusic 9, jah spear 1, bjrk 1, nonblondes 0.
SONGS = """\
song_id,file_name,Artist,Song title,start of the segment (min.sec),end of the segment (min.sec),Genre,Mediaeval 2013 set
2,2.mp3,The New Mystikal Troubadours\t,Tonight\t,0.48,1.33,Blues\t,development
3,3.mp3,  Kevin   MacLeod ,Vibe Ace,.5,1.35,Jazz,development\t
4,4.mp3,Björk,"Hunter, live",1,1.45,Pop,development
5,5.mp3,4 Non-Blondes,What's Up,2.05,2.5,Rock, development
7,7.mp3,Kevin MacLeod,Cipher,0.15,1,Electronic,evaluation
10,10.mp3,Jah Spear,Zion,0.05,.5,Reggae,evaluation
"""
RATINGS = """\
song_id,mean_arousal,std_arousal,mean_valence,std_valence
2,3.1,0.99443,3,0.66667
3,5.1, 1.1,7.0,1.2
4,7.1,1.0,4,0.9
5,\t4.7,1.0,6.0 ,0.9
7,2.5,1.0,5.5,0.9
10,6.25,1.0,6.5,0.9
"""
EMOMUSIC = {"annotations/songs_info.csv": SONGS, "annotations/static_annotations.csv": RATINGS}


def test_emomusic(tmp_path: Path) -> None:
    home = plant(tmp_path, EMOMUSIC | {"clips_45seconds/7.wav": ""})
    dataset = emomusic.read(home, {})
    assert by_split(dataset) == {
        "train": [("4", (7.1, 4.0)), ("5", (4.7, 6.0))],
        "valid": [("2", (3.1, 3.0)), ("3", (5.1, 7.0))],
        "test": [("7", (2.5, 5.5)), ("10", (6.25, 6.5))],
    }
    assert dataset.classes == ("arousal", "valence")
    # (3.1 + 5.1 + 7.1 + 4.7) / 4, and (3 + 7 + 4 + 6) / 4; deviations by hand: sqrt(8.12 / 4) and sqrt(10 / 4).
    assert dataset.facts["mean"] == pytest.approx((5.0, 5.0))
    assert dataset.facts["std"] == pytest.approx((2.03**0.5, 2.5**0.5))
    places = {item.id: item.audio.relative_to(home).as_posix() for item in dataset.items}
    assert places["2"] == "clips_45seconds/2.mp3" and places["7"] == "clips_45seconds/7.wav"
    assert dataset.notes == ()  # the one who is heard in valid and test is not in train
    moved = plant(tmp_path / "b", {f"annotations/sub/{name[12:]}": text for name, text in EMOMUSIC.items()})
    assert emomusic.read(moved, {}).counts == dataset.counts


def test_emomusic_splits_artists_by_hash() -> None:
    # pixies 8, sigur rs 9 (with its accent, 1), air 0, beirut 3
    splits = {name: emomusic.hashed_split(name) for name in ("Pixies", "Sigur Rós", "AIR", "Beirut 2")}
    assert splits == {"Pixies": "valid", "Sigur Rós": "valid", "AIR": "train", "Beirut 2": "train"}


def test_emomusic_tells_of_artists_and_odd_clips(tmp_path: Path) -> None:
    songs = SONGS.replace("Björk", "Jah Spear").replace("1,1.45,Pop", "1,1.44,Pop")
    dataset = emomusic.read(plant(tmp_path, EMOMUSIC | {"annotations/songs_info.csv": songs}), {})
    assert dataset.notes == ("1 of the 2 test artists also occur in train", "1 clips are not of 45 s")


def test_emomusic_says_what_is_wrong(tmp_path: Path) -> None:
    refused(emomusic.read, tmp_path, "annotations/songs_info.csv", "cvml.unige.ch")
    info, ratings = EMOMUSIC
    for name, text, words in (
        (info, SONGS.replace("Mediaeval 2013 set", "set"), ("songs_info.csv, line 1", "'Mediaeval 2013 set'")),
        (info, SONGS.replace("evaluation", "eval"), ("songs_info.csv, line 6", "'eval', neither")),
        (info, SONGS.replace("10,10.mp3", "x,10.mp3"), ("line 7", "'x' is no number")),
        (info, SONGS.replace(".5,1.35", "5s,1.35"), ("line 3", "'5s' to '1.35' is no segment")),
        (info, SONGS.replace("10,10.mp3", "11,10.mp3"), ("line 7", "song 11 is not rated in static_annotations.csv")),
        (info, SONGS.rpartition("10,10")[0], ("static_annotations.csv", "rates 1 songs")),
        (ratings, RATINGS.replace("mean_valence", "valence"), ("static_annotations.csv, line 1", "'mean_valence'")),
        (ratings, RATINGS.replace("6.25", "high"), ("static_annotations.csv, line 7", "'high' is not a number")),
    ):
        plant(tmp_path, EMOMUSIC | {name: text})
        refused(emomusic.read, tmp_path, *words)


def test_emomusic_knows_the_published_statistics(tmp_path: Path) -> None:
    rows = [f"{i},{i}.mp3,Artist {i},Song,0.00,0.45,Rock,development\n" for i in range(1, 620)]
    ratings = [f"{i},{5 + (-1) ** i},1,{5 - (-1) ** i},1\n" for i in range(1, 620)]
    head, rated = SONGS.splitlines(keepends=True)[0], RATINGS.splitlines(keepends=True)[0]
    texts = dict(zip(EMOMUSIC, ("".join([head, *rows]), "".join([rated, *ratings])), strict=True))
    refused(emomusic.read, plant(tmp_path, texts), "are not emoMusic's")
    note = json.dumps({"generator": "1", "seed": 0, "size": "tiny", "counts": {}})
    assert len(emomusic.read(plant(tmp_path, {"SYNTHETIC.json": note}), {}).items) == 619


# --- NSynth ---


def note(family: str, instrument: str, pitch: int) -> dict[str, object]:
    return {
        "note": 201034, "note_str": f"{instrument}-{pitch:03}-050", "instrument": 417, "instrument_str": instrument,
        "pitch": pitch, "velocity": 50, "sample_rate": 16000, "qualities": [0, 1, 0, 0, 0, 0, 0, 0, 0, 0],
        "qualities_str": ["dark"], "instrument_family": 0, "instrument_family_str": family, "instrument_source": 2,
        "instrument_source_str": "synthetic",
    }  # fmt: skip


def examples(*notes: dict[str, object]) -> str:
    return json.dumps({str(facts["note_str"]): facts for facts in notes})


NSYNTH = {
    "nsynth-train/examples.json": examples(
        note("bass", "bass_synthetic_033", 22), note("reed", "reed_acoustic_011", 60)
    ),
    "nsynth-valid/examples.json": examples(note("vocal", "vocal_acoustic_000", 120)),
    "nsynth-test/examples.json": examples(note("bass", "bass_electronic_018", 9)),
}


def test_nsynth(tmp_path: Path) -> None:
    home = plant(tmp_path, NSYNTH)
    families = nsynth.read_instrument(home, {})
    assert by_split(families) == {
        "train": [("bass_synthetic_033-022-050", "bass"), ("reed_acoustic_011-060-050", "reed")],
        "valid": [("vocal_acoustic_000-120-050", "vocal")],
        "test": [("bass_electronic_018-009-050", "bass")],
    }
    assert " ".join(families.classes) == "bass brass flute guitar keyboard mallet organ reed string synth_lead vocal"
    assert families.items[0].audio == home / "nsynth-train" / "audio" / "bass_synthetic_033-022-050.wav"
    pitches = nsynth.read_pitch(home, {})
    assert [item.label for item in pitches.items] == ["22", "60", "120", "9"]
    assert pitches.classes == tuple(str(pitch) for pitch in range(128))
    assert [item.audio for item in pitches.items] == [item.audio for item in families.items]


def test_nsynth_tells_of_shared_instruments_and_absent_families(tmp_path: Path) -> None:
    texts = NSYNTH | {"nsynth-test/examples.json": examples(note("reed", "reed_acoustic_011", 61))}
    notes = nsynth.read_instrument(plant(tmp_path, texts), {}).notes
    assert notes[0] == "1 of the 1 test instruments also occur in train"
    assert any(line.startswith("10 of the 11 classes have no test item: bass, brass") for line in notes)


def test_nsynth_says_what_is_wrong(tmp_path: Path) -> None:
    refused(nsynth.read_pitch, tmp_path, "nsynth-train/examples.json", "there is no such file", "magenta")
    name = "nsynth-valid/examples.json"
    for text, words in (
        ('{"a": ', (name, "is not JSON")),
        ("[]", (name, "is not a JSON object")),
        ('{"a": {"pitch": 3}}', (name, "note a", "no instrument_str")),
        ('{"a": 3}', (name, "note a")),
        (examples(note("kazoo", "kazoo_acoustic_000", 128)), (name, "note kazoo_acoustic_000-128-050")),
    ):
        plant(tmp_path, NSYNTH | {name: text})
        refused(nsynth.read_instrument, tmp_path, *words)
        refused(nsynth.read_pitch, tmp_path, *words)


# --- VocalSet ---

VOCALSET = dict.fromkeys((
    "FULL/female1/arpeggios/belt/f1_arpeggios_belt_c_a.wav",  # women of each split of the technique task
    "FULL/female2/arpeggios/lip_trill/lip_trill_arps.wav",
    "FULL/female3/scales/fast_piano/scales_fast_piano_f.wav",
    "FULL/female3/scales/vibrato/f3_scales_vibrato_a.wav",
    "FULL/male8/excerpts/straight/row_straight.wav",  # men
    "FULL/male10/long_tones/inhaled/m10_long_inhaled_e.wav",
    "FULL/male11/excerpts/vibrato/m11_row_vibrato.wav",
    "FULL/female2/scales/vibrato/f2_scales_vibrato_a(1).wav",  # the duplicates and strangers
    "FULL/male1/excerpts/vibrato/row_vibrato.wav",
    "FULL/male1/excerpts/vibrato/._m1_row_vibrato.wav",
    "FULL/male1/excerpts/vibrato/notes.txt",
    "FULL/readme.wav",
), "")  # fmt: skip


def test_vocalset_technique(tmp_path: Path) -> None:
    dataset = vocalset.read_technique(plant(tmp_path, VOCALSET), {})
    assert by_split(dataset) == {
        "train": [("female1/arpeggios/belt/f1_arpeggios_belt_c_a", "belt"),
                  ("male11/excerpts/vibrato/m11_row_vibrato", "vibrato")],
        "valid": [("female3/scales/vibrato/f3_scales_vibrato_a", "vibrato"),
                  ("male8/excerpts/straight/m8_row_straight", "straight")],
        "test": [("female2/arpeggios/lip_trill/f2_lip_trill_arps", "lip_trill"),
                 ("male10/long_tones/inhaled/m10_long_inhaled_e", "inhaled")],
    }  # fmt: skip
    assert len(dataset.classes) == 10 and "our own rule" in dataset.notes[0]
    renamed = next(item for item in dataset.items if item.id.endswith("m8_row_straight"))
    assert renamed.audio.name == "row_straight.wav" and renamed.audio.exists() and renamed.artist == "m8"


def test_vocalset_singer(tmp_path: Path) -> None:
    dataset = vocalset.read_singer(plant(tmp_path, VOCALSET), {})
    # Remainders of the SHA-1 by 25, by sha1sum and bc: below 12 train, below 20 valid.
    assert {item.id.rpartition("/")[2]: (item.label, item.split) for item in dataset.items} == {
        "f1_arpeggios_belt_c_a": ("f1", "train"), "f2_lip_trill_arps": ("f2", "test"),  # 5, 23
        "f3_scales_fast_piano_f": ("f3", "valid"), "f3_scales_vibrato_a": ("f3", "train"),  # 15, 0
        "m8_row_straight": ("m8", "test"), "m10_long_inhaled_e": ("m10", "test"),  # 22, 22
        "m11_row_vibrato": ("m11", "train"),  # 7
    }  # fmt: skip
    assert vocalset.singer_split("f1_Scales_belt_a") == "train"  # 1; with its capital, 13
    assert " ".join(dataset.classes) == "f1 f2 f3 f4 f5 f6 f7 f8 f9 m1 m2 m3 m4 m5 m6 m7 m8 m9 m10 m11"


def test_vocalset_notes_names_that_leave_something_open(tmp_path: Path) -> None:
    odd = {
        "VocalSet11/FULL/male4/scales/belt/belt_scale.wav": "",
        "VocalSet11/FULL/male4/scales/belt/m5_scales_belt_a.wav": "",
        "VocalSet11/FULL/male4/scales/yodel/m4_scales_yodel_a.wav": "",
        "VocalSet11/FULL/male10/excerpts/vibrato/caro_vibrato.wav": "",
        "VocalSet11/FULL/female2/arpeggios/vibrado/f2_arpeggios_vibrado_a.wav": "",
        "VocalSet11/FULL/female2/scales/straight/f2_scales_straight_u.wav": "",
        "VocalSet11/FULL/female2/scales/straight/f2_scales_straight_u(1).wav": "",
        "VocalSet11/FULL/female2/scales/vocal_fry/scales_vocal_fry.wav": "",
        "VocalSet11/FULL/female2/scales/vocal_fry/f2_scales_vocal_fry.wav": "",
    }
    dataset = vocalset.read_technique(plant(tmp_path, odd), {})
    assert [(item.id.rpartition("/")[2], item.label, item.artist) for item in dataset.items] == [
        ("f2_arpeggios_vibrado_a", "vibrato", "f2"), ("f2_scales_straight_u", "straight", "f2"),
        ("f2_scales_vocal_fry", "vocal_fry", "f2"), ("m10_caro_vibrato", "vibrato", "m10"),
        ("belt_scale", "belt", "m4"), ("m5_scales_belt_a", "belt", "m4"),
    ]  # fmt: skip
    assert {"1 files do not name their singer: the folder's is taken", "1 files of other techniques are left out",
            "1 files name another singer than their folder: the folder's is taken",
            "1 recordings are taken from folders vibrado/, misspelt",
            "2 wrongly named duplicates are left out"} <= set(dataset.notes)  # fmt: skip


@pytest.mark.parametrize("suffix", [".flac", ".WAV", ".MP3"])
def test_other_formats_and_capitals_change_nothing(suffix: str, tmp_path: Path) -> None:
    def listed(dataset: Dataset) -> list[tuple[str, str, object]]:
        return sorted((item.id, item.split, item.label) for item in dataset.items)

    for name, read, files in (
        ("vocalset", vocalset.read_technique, VOCALSET), ("musdb", musdb.read, MUSDB)
    ):  # fmt: skip
        other = {file.replace(".wav", suffix) if "readme" not in file else file: text for file, text in files.items()}
        there = read(plant(tmp_path / name / "other", other), {})
        assert listed(there) == listed(read(plant(tmp_path / name / "published", files), {}))
        stems = [file for item in there.items for file in musdb.stem_files(item).values()] if name == "musdb" else []
        assert all(path.exists() for path in (*stems, *(item.audio for item in there.items)))


def test_vocalset_says_what_is_wrong(tmp_path: Path) -> None:
    refused(vocalset.read_singer, tmp_path, "FULL", "Zenodo")
    refused(vocalset.read_singer, plant(tmp_path, {"FULL/read.me": ""}), "<singer>/<context>/<technique>/<file>.wav")
    home = plant(tmp_path, {"FULL/caro/scales/belt/caro_belt.wav": ""})
    refused(vocalset.read_technique, home, "caro_belt.wav", "one of the 20 singers")


# --- MTG-Jamendo ---

HEADER = "TRACK_ID\tARTIST_ID\tALBUM_ID\tPATH\tDURATION\tTAGS\r\n"
MOODS = {
    "train": "track_0000948\tartist_000087\talbum_000149\t48/948.mp3\t212.7\tmood/theme---background\r\n"
             "track_0000950\tartist_000087\talbum_000149\t50/950.mp3\t248.1\tmood/theme---film\tmood/theme---sad\r\n",
    "validation": "track_0001354\tartist_000123\talbum_000217\t54/1354.mp3\t250.1\tmood/theme---sad\r\n",
    "test": "track_0003302\tartist_000275\talbum_000505\t02/3302.mp3\t275.3\tmood/theme---film\r\n\r\n",
}  # fmt: skip
JAMENDO = {f"data/splits/split-0/autotagging_moodtheme-{split}.tsv": HEADER + rows for split, rows in MOODS.items()}


@pytest.mark.parametrize("low", [True, False])
def test_jamendo(tmp_path: Path, low: bool) -> None:
    folder, end = ("audio-low", ".low.mp3") if low else ("audio", ".mp3")
    dataset = jamendo.read_moodtheme(plant(tmp_path, JAMENDO | {f"{folder}/48/948{end}": ""}), {})
    assert by_split(dataset) == {
        "train": [("track_0000948", ("mood/theme---background",)),
                  ("track_0000950", ("mood/theme---film", "mood/theme---sad"))],
        "valid": [("track_0001354", ("mood/theme---sad",))],
        "test": [("track_0003302", ("mood/theme---film",))],
    }  # fmt: skip
    assert dataset.classes == ("mood/theme---background", "mood/theme---film", "mood/theme---sad")
    assert dataset.items[0].audio.is_file() and dataset.items[0].artist == "artist_000087"
    assert dataset.items[1].audio == tmp_path / folder / "50" / f"950{end}"
    assert dataset.notes == ("2 of the 3 classes have no test item: mood/theme---background, mood/theme---sad",)


def test_jamendo_in_a_clone_beside_its_audio_and_with_leaks(tmp_path: Path) -> None:
    texts = {f"mtg-jamendo-dataset/{name}": text.replace("_000275", "_000087") for name, text in JAMENDO.items()}
    dataset = jamendo.read_moodtheme(
        plant(tmp_path, texts | {"audio/50/950.low.mp3": "", "audio/02/3302.low.flac": ""}), {}
    )
    assert [item.audio.exists() for item in dataset.items] == [False, True, False, True]
    assert dataset.notes[0] == "1 of the 1 test artists also occur in train"


def test_jamendo_says_what_is_wrong(tmp_path: Path) -> None:
    refused(jamendo.read_moodtheme, tmp_path, "autotagging_moodtheme-train.tsv", "clone")
    name = "data/splits/split-0/autotagging_moodtheme-test.tsv"
    for text, words in (
        ("", ("line 1", "does not begin with the columns")),
        (HEADER.replace("TAGS", "TAG"), ("line 1", "does not begin with the columns")),
        (HEADER + "track_0003302\tartist_000275\talbum_000505\t02/3302.mp3\t275.3\r\n", ("line 2", "has no tags")),
        (HEADER + "track_0003302\r\n", ("line 2", "has no tags")),
    ):
        plant(tmp_path, JAMENDO | {name: text})
        refused(jamendo.read_moodtheme, tmp_path, Path(name).name, *words)
    (tmp_path / name).unlink()
    refused(jamendo.read_moodtheme, tmp_path, Path(name).name, "cannot be read")
    refused(jamendo.read_genre, tmp_path, "autotagging_genre-train.tsv")


@pytest.mark.check
@needs_reference
def test_jamendo_reads_the_real_splits(tmp_path: Path) -> None:
    for packed in (REFERENCE / "mtg_jamendo" / "split-0").glob("*.tsv.gz"):
        plant(tmp_path, {f"data/splits/split-0/{packed.stem}": gzip.decompress(packed.read_bytes()).decode()})
    split_of: dict[str, set[str]] = {}
    for task, n_tags in (("mtg_genre", 87), ("mtg_instrument", 40), ("mtg_moodtheme", 56), ("mtg_top50", 50)):
        read = getattr(jamendo, TASKS[task].reader.partition(":")[2])
        dataset = read(tmp_path, {})
        assert tuple(dataset.counts.values()) == TASKS[task].counts and len(dataset.classes) == n_tags
        assert dataset.notes == ()  # no shared artist or album, every tag in train and test
        for item in dataset.items:
            split_of.setdefault(item.id, set()).add(item.split)
    assert len(split_of) == 55_525 and all(len(splits) == 1 for splits in split_of.values())
    counts = [sum(split in splits for splits in split_of.values()) for split in ("train", "valid", "test")]
    assert counts == [32_859, 11_101, 11_565]


# --- MUSDB18 ---


def song(folder: str) -> dict[str, str]:
    return {f"{folder}/{stem}.wav": "" for stem in ("mixture", "drums", "bass", "other", "vocals")}


MUSDB = {"train/A Classic Education - NightOwl.stem.mp4": "", "train/.DS_Store": "", "README.md": ""} | {
    **song("train/ANiMAL - Clinic A"), **song("train/ANiMAL - Rockshow"),
    **song("test/Al James - Schoolboy Facination"), **song("test/ANiMAL - Easy Tiger - live"),
}  # fmt: skip


def test_musdb(tmp_path: Path) -> None:
    dataset = musdb.read(plant(tmp_path, MUSDB), {})
    assert by_split(dataset) == {
        "train": [("A Classic Education - NightOwl", None), ("ANiMAL - Clinic A", None)],
        "valid": [("ANiMAL - Rockshow", None)],
        "test": [("ANiMAL - Easy Tiger - live", None), ("Al James - Schoolboy Facination", None)],
    }
    packed, wav = dataset.split("train")
    assert packed.audio == tmp_path / "train" / "A Classic Education - NightOwl.stem.mp4"
    assert set(musdb.stem_files(packed).values()) == {packed.audio}
    assert wav.audio == tmp_path / "train" / "ANiMAL - Clinic A" / "mixture.wav" and wav.artist == "ANiMAL"
    assert {name: path.name for name, path in musdb.stem_files(wav).items()} == {
        stem: f"{stem}.wav" for stem in ("mixture", "drums", "bass", "other", "vocals")
    }
    assert dataset.classes == ("vocals", "drums", "bass", "other")
    assert dataset.notes == ("1 of the 2 test artists also occur in train",)
    below = plant(tmp_path / "b", {f"musdb18hq/{name}": text for name, text in MUSDB.items()})
    assert musdb.read(below, {}).counts == dataset.counts


def test_musdb_says_what_is_wrong(tmp_path: Path) -> None:
    refused(musdb.read, tmp_path, "there is no train", "Zenodo")
    refused(musdb.read, plant(tmp_path, song("train/ANiMAL - Clinic A")), "test", "there is no such folder")
    home = plant(tmp_path, MUSDB)
    (home / "train" / "ANiMAL - Clinic A" / "bass.wav").unlink()
    refused(musdb.read, home, "ANiMAL - Clinic A", "there is no bass.wav")
    refused(musdb.read, plant(home, song("train/ANiMAL - Clinic A") | {"train/x.stem.mp4": ""}), "'<Artist> - <Title>'")
