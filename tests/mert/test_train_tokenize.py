"""Label stores: made once, in any order of attempts, and refused where they do not belong."""

from __future__ import annotations

import pickle
from collections.abc import Sized
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from harness.brightness import Brightness
from harness.commands import run_mert
from harness.sounds import music, tiny_config

pytest.importorskip("datasets")
pytest.importorskip("nnAudio")

from mert.cli.teachers import Pieces
from mert.cli.train import load_teachers
from mert.errors import MertError, UsageError
from mert.train import tokenize as tokenizing
from mert.train.batches import Batches
from mert.train.corpus.base import GeneratedCorpus
from mert.train.corpus.opening import open_corpus
from mert.train.mixing import Mixing
from mert.train.recipe import Recipe
from mert.train.tokenize import TokenizeOptions, TokenizeStage, tokenize
from teachers import Fitting, Teacher, TeacherError, fit_teacher, load_teacher
from teachers.base import Crop, Targets, perplexity
from teachers.labels import INDEX, LabelStore, read_shard, shard_name
from teachers.random_projection import RandomProjectionTeacher


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TokenizeOptions:
    """Five recordings in three shards, for a teacher of two codebooks of 32 classes."""
    monkeypatch.setattr(tokenizing, "SHARD_RECORDINGS", 2)
    (tmp_path / "audio").mkdir()
    for i in range(5):
        soundfile.write(tmp_path / f"audio/{i}.wav", music(1.1 + 0.1 * i, seed=i), 24_000)
    RandomProjectionTeacher.seeded(0, n_codebooks=2, n_classes=32).save(tmp_path / "teacher")
    return TokenizeOptions(str(tmp_path / "audio"), str(tmp_path / "teacher"), str(tmp_path / "store"), {})


def contents(folder: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


def test_a_store_holds_what_the_teacher_says_of_each_recording(options: TokenizeOptions) -> None:
    announced: list[int] = []
    all_counts: Any = list(tokenize(options, on_start=lambda stage: announced.append(stage.n_shards)))
    assert announced == [len(all_counts)]
    counts, store, teacher = sum(all_counts), LabelStore(options.out), load_teacher(options.teacher)
    corpus = open_corpus(options.data, 24_000, 24_000, {})
    assert len(store) == len(corpus) == 5
    assert (store.fingerprint, store.n_classes, store.rate_hz) == (teacher.fingerprint, (32, 32), 75.0)
    assert isinstance(teacher, Teacher)
    total = 0
    for i in range(5):
        n = int(corpus.lengths[i])
        wanted = teacher.targets(torch.from_numpy(corpus.read(i, 0, n))[None]).codes
        assert wanted is not None
        np.testing.assert_array_equal(store.values(corpus.name(i), n, 0, 10**6), wanted[0].T)
        total += wanted.numel()
    assert counts.sum() == total
    assert all(perplexity(torch.from_numpy(counts_C)) > 2 for counts_C in counts)


def test_a_stopped_job_goes_on_and_gives_the_same_bytes(options: TokenizeOptions) -> None:
    list(tokenize(options))
    whole = contents(options.out)
    (Path(options.out) / shard_name(1)).unlink()
    first = Path(options.out, shard_name(0)).stat().st_mtime_ns
    shards = tokenize(options)
    next(shards)
    list(shards)
    assert contents(options.out) == whole
    assert Path(options.out, shard_name(0)).stat().st_mtime_ns == first
    (Path(options.out) / shard_name(2)).unlink()
    with pytest.raises(TeacherError, match="is missing; run the same mert tokenize again"):
        LabelStore(options.out)
    (Path(options.out) / INDEX).unlink()
    list(tokenize(options))
    assert contents(options.out) == whole


def test_an_unfinished_store_is_refused(options: TokenizeOptions) -> None:
    shards = tokenize(options)
    next(shards)
    with pytest.raises(TeacherError, match=r"shard-00001\.arrow: is missing; run the same mert tokenize again"):
        LabelStore(options.out)
    next(shards), next(shards)
    with pytest.raises(TeacherError, match="store: is not finished; run the same mert tokenize again"):
        LabelStore(options.out)
    list(shards)
    assert len(LabelStore(options.out)) == 5


def test_a_damaged_shard_of_a_stopped_job_is_named(options: TokenizeOptions) -> None:
    list(tokenize(options))
    path = Path(options.out) / shard_name(1)
    content = bytearray(path.read_bytes())
    place = content.rindex(read_shard(path).values_of(1).tobytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(TeacherError, match=r"shard-00001\.arrow: 3\.wav: its targets are not those that were written"):
        list(tokenize(options))


def test_training_reads_the_store_as_it_would_ask_the_teacher(options: TokenizeOptions) -> None:
    list(tokenize(options))
    recipe = Recipe(
        data=options.data, model=tiny_config(), batch_clips=2, group_clips=2, clip_s=0.5, validate_clips=1,
        mixing=Mixing(apply_prob=0.0),
    )  # fmt: skip
    corpus = open_corpus(options.data, 24_000, recipe.clip_samples, {})
    stored = Batches(recipe, corpus, load_teachers([options.out]), torch.device("cpu")).group(3, 0)
    asked = Batches(recipe, corpus, load_teachers([options.teacher]), torch.device("cpu")).group(3, 0)
    assert torch.equal(stored.wave_BN, asked.wave_BN)
    same = stored.codes["random_projection"] == asked.codes["random_projection"]
    assert same[:, :, 4:-4].float().mean() > 0.95  # the teacher hears more of a whole recording at the crop's edges


def test_a_store_of_another_teacher_or_corpus_is_refused(options: TokenizeOptions, tmp_path: Path) -> None:
    list(tokenize(options))
    RandomProjectionTeacher.seeded(1, n_codebooks=2, n_classes=32).save(tmp_path / "other")
    with pytest.raises(UsageError, match="the store of another teacher or corpus"):
        list(tokenize(replace(options, teacher=str(tmp_path / "other"))))
    soundfile.write(Path(options.data) / "new.wav", music(1.0), 24_000)
    with pytest.raises(UsageError, match="the store of another teacher or corpus"):
        list(tokenize(options))
    store = LabelStore(options.out)
    with pytest.raises(TeacherError, match=r"has no targets of new\.wav; tokenize this corpus"):
        store.values("new.wav", 24_000, 0, 10)
    with pytest.raises(TeacherError, match=r"0\.wav has 99 samples, and had 26400"):
        store.values("0.wav", 99, 0, 10)


def test_a_teacher_by_name_gets_the_rate_that_is_asked_for(options: TokenizeOptions, tmp_path: Path) -> None:
    out = tmp_path / "slow"
    words = ["tokenize", options.data, "-o", out, "--teacher", "random_projection", "--rate-hz", 16_000, "-d", "cpu"]
    assert run_mert(*words).code == 0
    store = LabelStore(out)
    assert (store.sample_rate, store.rate_hz) == (16_000, 50.0)
    assert store.fingerprint == load_teacher("random_projection", 16_000).fingerprint


def test_frames_are_stored_of_whole_recordings_as_float16(options: TokenizeOptions, tmp_path: Path) -> None:
    options = replace(options, teacher="cqt", out=str(tmp_path / "frames"))
    assert run_mert("tokenize", options.data, "-o", options.out, "--teacher", "cqt", "-d", "cpu").code == 0
    store, teacher, corpus = LabelStore(options.out), load_teacher("cqt"), open_corpus(options.data, 24_000, 24_000, {})
    assert (store.kind, store.n_bins, store.n_classes, store.n_clip_values) == ("frames", 336, (), 0)
    n = int(corpus.lengths[3])
    wave_1N = torch.from_numpy(corpus.read(3, 0, n).copy())[None]
    frames_TF = teacher.targets(wave_1N).frames[0]  # type: ignore[attr-defined]
    stored = store.crop_targets(wave_1N[:, 3200:9600], [Crop(corpus.name(3), n, 10)], 19)
    assert stored.codes is None and stored.clips is None and stored.frames.dtype == torch.float32  # type: ignore[union-attr]
    torch.testing.assert_close(stored.frames[0], frames_TF[10:29], rtol=1e-3, atol=1e-6)  # type: ignore[index]
    assert store.codebooks() == []
    with pytest.raises(TeacherError, match="holds frames, not codes; name a store of codes"):
        store.counts()


def test_what_describes_clips_as_a_whole_is_stored_of_recordings_as_a_whole(
    options: TokenizeOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizing, "load_teacher", lambda name, rate_hz: Brightness({}, {}))
    options = replace(options, out=str(tmp_path / "clips"))
    list(tokenize(options))
    store, corpus = LabelStore(options.out), open_corpus(options.data, 24_000, 24_000, {})
    assert (store.kind, store.n_clip_values) == ("clips", Brightness.n_clip_values)
    n = int(corpus.lengths[2])
    wave_1N = torch.from_numpy(corpus.read(2, 0, n).copy())[None]
    crop = [Crop(corpus.name(2), n, 0)]
    torch.testing.assert_close(store.crop_targets(wave_1N, crop, 9).clips, Brightness({}, {}).targets(wave_1N).clips)
    with pytest.raises(TeacherError, match=r"describes 2.wav as a whole, 1.3 s of it; give clip_s as long as"):
        store.crop_targets(wave_1N[:, :24_000], crop, 9)


def test_targets_that_are_not_finite_are_not_stored(options: TokenizeOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(Brightness):
        def targets(self, wave_BN: torch.Tensor) -> Targets:
            made = super().targets(wave_BN)
            assert made.clips is not None
            return replace(made, clips=made.clips / 0)

    monkeypatch.setattr(tokenizing, "load_teacher", lambda name, rate_hz: Broken({}, {}))
    with pytest.raises(MertError, match=r"0\.wav: its targets are not finite; take it out of the corpus"):
        list(tokenize(options))


@pytest.mark.check
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of ray
@pytest.mark.parametrize(("executor", "workers"), [("ray", 1), ("local", 2)])
def test_other_processes_make_the_same_store(
    executor: str, workers: int, options: TokenizeOptions, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("ray")
    monkeypatch.setattr(tokenizing, "SHARD_RECORDINGS", 64)  # other processes do not see the smaller number
    list(tokenize(options))
    elsewhere = replace(options, out=str(tmp_path / "elsewhere"))
    list(tokenize(elsewhere, executor, workers))
    assert contents(elsewhere.out) == contents(options.out)


class Long:
    """A generator of one piece of music, longer than two seconds."""

    seconds = 3.3

    def __init__(self) -> None:
        self.wave_N = music(self.seconds, seed=3)

    def __len__(self) -> int:
        return 1

    def read(self, index: int) -> np.ndarray:
        return self.wave_N


def test_a_teacher_is_fitted_to_pieces_as_it_would_be_to_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("teachers.clustering.PIECE_S", 2)
    corpus = GeneratedCorpus(Long(), 24_000)
    pieces = Pieces(corpus, 1)
    assert [len(piece_N) for piece_N in pieces] == [48_000, 31_200] and len(pieces) == 2
    whole = [corpus.read(0, 0, int(corpus.lengths[0]))]
    settings = {"n_codebooks": 2, "n_classes": 8, "sample_frames": 300}
    fitted = [fit_teacher("mel_rvq", waves, **settings).fingerprint for waves in (pieces, whole)]
    assert fitted[0] == fitted[1]


def test_the_commands_take_options_of_the_data_and_a_device(tmp_path: Path) -> None:
    options = ["-O", "n_items=3", "-O", "seconds=1.2"]
    fit = ["fit-teacher", "mel_rvq", "synth", "-o", tmp_path / "rvq", "--set", "n_codebooks=1", "--set", "n_classes=4"]
    done = run_mert(*fit, "--device", "cpu", *options)
    assert done.code == 0 and "mel_rvq, (4,) classes" in done.out
    make = ["tokenize", "synth", "-o", tmp_path / "store", "--teacher", tmp_path / "rvq"]
    done = run_mert(*make, "-d", "cpu", *options)
    assert done.code == 0 and "codebook 0: 270 codes" in done.out
    store, corpus = LabelStore(tmp_path / "store"), open_corpus("synth", 24_000, 24_000, {"n_items": 3, "seconds": 1.2})
    store.check_recordings((corpus.name(i), int(corpus.lengths[i])) for i in range(3))
    for words, reason in (
        ([*make, "-d", "nonsense"], "--device nonsense: torch knows no such device"),
        ([*fit, "-d", "cuda:99", "--overwrite"], "--device cuda:99"),
        ([*make, "-O", "n_items"], "n_items: is not key=value"),
        ([*make, "-O", "colour=red"], "synth takes no such options"),
        ([*make, "-O", "n_items=4"], "is the store of another teacher or corpus"),
    ):
        done = run_mert(*words)
        assert done.code == 2 and reason in done.err


def test_progress_of_a_fit_covers_reading_and_fitting(tmp_path: Path) -> None:
    followed: dict[str, int] = {}

    def track(items: Sized, description: str) -> Sized:
        followed[description] = len(items)
        return items

    how = Fitting(track=track)
    waves = [music(1.0, seed=i) for i in range(2)]
    fit_teacher("mel_rvq", waves, how, n_codebooks=3, n_classes=4)
    assert followed == {"codebooks": 3}
    followed.clear()
    fit_teacher("kmeans", waves, how, features="mel_chroma", n_classes=4)
    assert followed == {"streams": 2}


def test_a_stage_travels_to_other_processes_without_its_teacher(options: TokenizeOptions) -> None:
    """torch would pass a file descriptor for each tensor, and a process can be started with 256 of them."""
    stage = TokenizeStage(options)
    packed = pickle.dumps(stage)
    assert len(packed) < 2_000
    again = pickle.loads(packed)
    assert again.teacher.fingerprint == stage.teacher.fingerprint and again(0) == stage(0)
