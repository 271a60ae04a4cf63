"""MARBLE's JSONL as input, the registry's counts, and readers that go by either; all trees typed by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from harness.planting import by_split, plant, refused

from mir_benchmarks.datasets import jsonl as exchange
from mir_benchmarks.datasets.dataset import TaskError
from mir_benchmarks.tasks.registry import TASKS

ABOUT = {"duration": 30.0, "sample_rate": 44100, "num_samples": 1323000, "bit_depth": 16, "channels": 1}


def jsonl(*rows: tuple[str, Any], **more: Any) -> str:
    return "".join(json.dumps({"audio_path": path, "label": label, **more, **ABOUT}) + "\n" for path, label in rows)


def test_genres_below_the_corpus_folder(tmp_path: Path) -> None:
    home = plant(tmp_path / "gtzan", {
        "GTZANGenre.train.jsonl": jsonl(("data/GTZAN/genres/blues/blues.00029.wav", "blues")),
        "GTZANGenre.val.jsonl": jsonl(("data/GTZAN/genres/hiphop/hiphop.00000.wav", "hip-hop")) + "\n",
        "GTZANGenre.test.jsonl": jsonl(("data/GTZAN/genres/rock/rock.00012.wav", "Rock")),
        "genres/rock/rock.00012.wav": "",
    })  # fmt: skip
    dataset = TASKS["gtzan_genre"].read(tmp_path)
    assert by_split(dataset) == {
        "train": [("genres/blues/blues.00029", "blues")], "valid": [("genres/hiphop/hiphop.00000", "hiphop")],
        "test": [("genres/rock/rock.00012", "rock")],
    }  # fmt: skip
    assert dataset.classes == exchange.gtzan.GENRES and "GTZANGenre.test.jsonl" in dataset.notes[0]
    assert [item.audio.relative_to(home).as_posix() for item in dataset.items] == [
        "genres/blues/blues.00029.wav", "genres/hiphop/hiphop.00000.wav", "genres/rock/rock.00012.wav"
    ]  # fmt: skip
    assert set(TASKS["gtzan_genre"].expected_counts(home).values()) == {0}  # the files bring their own


def test_keys_keep_the_song_of_each_clip(tmp_path: Path) -> None:
    clip = "data/GS/giantsteps_clips/wav/0005061-0.wav"
    texts = {
        "GS.train.jsonl": jsonl((clip, "Eb minor"), (clip.replace("-0", "-1"), "d# minor"), ori_uid="0005061"),
        "GS.valid.jsonl": jsonl(("a.wav", "C major"), ori_uid="a"),
        "GS.test.jsonl": jsonl(("b.wav", "A minor"), ori_uid="b"),
    }
    dataset = exchange.read(plant(tmp_path, texts), "giantsteps_key", "key")
    assert [item.label for item in dataset.items] == ["Eb minor", "Eb minor", "C major", "A minor"]
    assert dataset.facts["songs"]["giantsteps_clips/wav/0005061-1"] == "0005061"
    assert any(note.startswith("4 clips of 3 songs") for note in dataset.notes)


def test_null_is_not_known_as_a_missing_key_is(tmp_path: Path) -> None:
    """Such lines come from pandas: one artist or song called None would join all of them."""
    names = {"train": ("a.wav", "b.wav"), "valid": ("c.wav", "d.wav"), "test": ("e.wav", "f.wav")}
    keys = ("C major", "A minor")
    for more in ({"artist": None, "ori_uid": None}, {}):
        texts = {f"GS.{split}.jsonl": jsonl(*zip(paths, keys, strict=True), **more) for split, paths in names.items()}
        dataset = exchange.read(plant(tmp_path / str(len(more)), texts), "giantsteps_key", "key")
        assert {item.artist for item in dataset.items} == {""} and not dataset.facts["songs"]
        assert not any("artist" in note or "songs" in note for note in dataset.notes)


def test_tags_are_ours_where_ours_are_known(tmp_path: Path) -> None:
    for name in ("train", "val", "test"):
        rows = (f"data/MTT/mp3/0/{name}.mp3", ["noVocals", "guitar"]), (f"{name}2.mp3", [])
        mood = ("data/MTG/audio/48/948.low.flac", ["mood/theme---film"])
        plant(tmp_path, {f"MTT.{name}.jsonl": jsonl(*rows), f"MTGMood.{name}.jsonl": jsonl(mood)})
    tagged = exchange.read(tmp_path, "mtt", "multilabel")
    assert [item.label for item in tagged.split("test")] == [("guitar", "no vocals"), ()] and len(tagged.classes) == 50
    moods = exchange.read(tmp_path, "mtg_moodtheme", "multilabel")
    assert moods.classes == ("mood/theme---film",) and moods.items[0].label == moods.classes
    with pytest.raises(TaskError, match="1 items occur twice"):
        moods.checked(tmp_path)


def test_ratings_and_beats(tmp_path: Path) -> None:
    beat = {"beat": [0.428173, 0.898377], "downbeat": [0.428173], "tempo": 126.46, "meter": "4/4"}
    values = {"train": [0.5, -1.0], "val": {"valence": 3, "arousal": 1.5}, "test": [0, 0]}
    for name, value in values.items():
        plant(tmp_path, {f"EMO.{name}.jsonl": jsonl((f"data/EMO/emomusic/wav/{name}.wav", value)),
                         f"GTZANBeatTracking.{name}.jsonl": jsonl((f"{name}.wav", beat))})  # fmt: skip
    ratings = exchange.read(tmp_path, "emomusic", "regression")
    assert [item.label for item in ratings.items] == [(0.5, -1.0), (1.5, 3.0), (0.0, 0.0)]
    assert ratings.facts["mean"] == (1.0, 1.0) and ratings.facts["std"] == (0.5, 2.0)
    beats = exchange.read(tmp_path, "gtzan_beats", "beats")
    assert beats.items[0].label == (0.428173, 0.898377) and beats.facts["downbeats"]["train"] == (0.428173,)


def test_jsonl_says_what_is_wrong(tmp_path: Path) -> None:
    good = {f"GTZANGenre.{name}.jsonl": jsonl((f"{name}.wav", "pop")) for name in ("train", "val", "test")}

    def read(home: Path, protocol: dict[str, str]) -> Any:
        return exchange.read(home, "gtzan_genre", "classification")

    for text, words in (
        ("{", ("line 1", "is not JSON")),
        ('\n{"label": "pop"}\n', ("line 2", "no audio_path")),
        (jsonl(("a.wav", "schlager")), ("line 1", "unknown label 'schlager'", "blues")),
        (jsonl(("../../secret.wav", "pop")), ("line 1", "no place below this folder")),
    ):
        refused(read, plant(tmp_path, good | {"GTZANGenre.val.jsonl": text}), "GTZANGenre.val.jsonl", *words)
    (tmp_path / "GTZANGenre.val.jsonl").unlink()
    refused(read, tmp_path, "GTZANGenre", "has no valid beside it", "put GTZANGenre.val.jsonl there")
    numbers = {f"EMO.{name}.jsonl": jsonl(("a.wav", [1, "much"])) for name in ("train", "val", "test")}
    with pytest.raises(TaskError, match=r"EMO.train.jsonl, line 1: 'much' is not a number"):
        exchange.read(plant(tmp_path, numbers), "emomusic", "regression")


def test_registry_reads_checks_and_counts(tmp_path: Path) -> None:
    genre = TASKS["gtzan_genre"]
    with pytest.raises(TaskError, match=r"no such folder; the 1,000 excerpts .* put it there"):
        genre.read(tmp_path)
    home = plant(tmp_path / "gtzan", {"genres/blues/blues.00029.wav": ""})
    assert [item.id for item in genre.read(tmp_path).items] == ["blues.00029"]
    assert genre.expected_counts(home) == {"train": 443, "valid": 197, "test": 290}
    assert genre.expected_counts(home, {"gtzan_jazz54": "drop"}) == {"train": 442, "valid": 197, "test": 290}
    assert TASKS["mtt"].expected_counts(home, {"mtt_untagged": "drop"}) == {"train": 15247, "valid": 1529, "test": 4332}
    counts = {"gtzan_genre": {"train": 3, "valid": 2, "test": 1}}
    plant(home, {"SYNTHETIC.json": json.dumps({"generator": "1", "seed": 0, "size": "tiny", "counts": counts})})
    assert genre.expected_counts(home) == counts["gtzan_genre"]


def test_ids_occur_once(tmp_path: Path) -> None:
    row = jsonl(("a.wav", "pop"))
    plant(tmp_path / "gtzan", {f"GTZANGenre.{name}.jsonl": row for name in ("train", "val", "test")})
    with pytest.raises(TaskError, match="1 items occur twice, 'a' first"):
        TASKS["gtzan_genre"].read(tmp_path)
