"""Readers of emoMusic, NSynth, VocalSet, MTG-Jamendo and MUSDB18, on trees typed by hand; MTG's also on its splits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from planting import by_split, plant, refused

from mir_benchmarks.readers import emomusic, nsynth

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
