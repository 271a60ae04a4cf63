"""Every kind of teacher drives the same training: fitted or drawn, saved, loaded, learned from."""

from collections.abc import Callable
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

from mert.errors import UsageError
from mert.train.corpus.opening import open_corpus
from mert.train.engine import Engine
from mert.train.initialisation import PretrainerConfig, Start, TrainedHead, new_pretrainer
from mert.train.parallel import World
from mert.train.recipe import nano_recipe
from mert.train.run_folder import read_heads
from mert.train.validation import held_out_metrics, summary
from teachers import fit_teacher, load_teacher

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled", "ignore:TypedStorage is deprecated")
ALONE = World(0, 1, torch.device("cpu"))
SMALL: dict[str, dict[str, Any]] = {
    "mel_rvq": {"n_codebooks": 2, "n_classes": 16},
    "kmeans": {"features": "mel_chroma", "n_classes": (16, 12), "sample_rate": 24_000},
    "encodec_small": {
        "n_filters": 2, "dimension": 8, "n_codebooks": 2, "n_classes": 16, "steps": 4, "batch_clips": 2, "crop_s": 0.3,
    },
}  # fmt: skip


@pytest.mark.check
@pytest.mark.parametrize("name", [*SMALL, "encodec"])
def test_a_model_learns_from_every_acoustic_teacher(name: str, tmp_path: Path, write: Callable[..., Path]) -> None:
    """Forty steps on a few recordings: each codebook's loss falls, and so does the error of the CQT beside it."""
    if name.startswith("encodec"):
        pytest.importorskip("encodec", exc_type=ImportError)
    waves = [music(1.2, seed=i).astype(np.float32) for i in range(6)]
    for i, wave_N in enumerate(waves):
        write(f"music/{i}.wav", wave_N)
    if name == "encodec":
        from teachers.encodec import EncodecTeacher

        EncodecTeacher.random(n_filters=2, dimension=8, n_codebooks=2, n_classes=16).save(tmp_path / name)
    else:
        fit_teacher(name, waves, **SMALL[name]).save(tmp_path / name)
    recipe = replace(
        nano_recipe(), out=str(tmp_path / "run"), data=str(tmp_path / "music"), teachers=(str(tmp_path / name), "cqt"),
        model=tiny_config(pre_norm=True), filterbank_start=False, batch_clips=4, group_clips=4, clip_s=0.5, steps=40,
        warmup_steps=4, lr=5e-3, validate_clips=2, validate_every=40, class_width=8, checkpoint_every=40,
    )  # fmt: skip
    teachers = {teacher.name: teacher for teacher in map(load_teacher, recipe.teachers)}
    corpus = open_corpus(recipe.data, 24_000, recipe.clip_samples, {})
    engine = Engine(recipe, corpus, teachers, ALONE)
    rows = [engine.step(step) for step in range(1, 41)]
    code_teacher = next(teacher for teacher in teachers.values() if teacher.n_classes)
    losses = [f"{code_teacher.name}/loss_{k}" for k in range(len(code_teacher.n_classes))]
    for loss in [*losses, "cqt/loss"]:
        first, last = (np.mean([row[loss] for row in part]) for part in (rows[:8], rows[-8:]))
        assert last < 0.9 * first, loss


def small_engine(folder: Path, teachers: dict[str, Any], **changes: Any) -> Engine:
    """Of half-second clips of `folder/music`, under more or less noise, which is made if it is not there."""
    if not (folder / "music").exists():
        (folder / "music").mkdir()
        for i in range(12):
            noise_N = np.random.default_rng(i).standard_normal(28_800) * 10 ** (-1 - i % 6 / 3)
            soundfile.write(folder / f"music/{i}.wav", music(1.2, seed=i) + noise_N, 24_000)
    recipe = replace(
        nano_recipe(), out=str(folder / "run"), data=str(folder / "music"), teachers=tuple(teachers),
        model=tiny_config(pre_norm=True, dropout=0.0, attention_dropout=0.0, input_dropout=0.0, layer_drop=0.0),
        filterbank_start=False, codebook_start=False, batch_clips=4, group_clips=2,
        clip_s=0.5, steps=40, warmup_steps=2, lr=5e-3, validate_clips=2, validate_every=4, class_width=8,
        checkpoint_every=4,
    )  # fmt: skip
    recipe = replace(recipe, **changes)
    return Engine(recipe, open_corpus(recipe.data, 24_000, recipe.clip_samples, {}), teachers, ALONE)


def test_a_model_learns_from_numbers_that_describe_whole_clips(tmp_path: Path) -> None:
    """The loss falls, validation is better than the mean, and clips one at a time give the same losses."""
    engine = small_engine(tmp_path, {"brightness": Brightness({}, {})})
    rows = [engine.step(step) for step in range(1, 25)]
    first, last = (np.mean([row["brightness/loss"] for row in part]) for part in (rows[:6], rows[-6:]))
    assert last < 0.5 * first
    metrics = held_out_metrics(engine.objective, engine.batches, alone=True)
    assert 0 < metrics["brightness/error"] < 1
    assert "brightness error" in summary(40, metrics)
    other = small_engine(tmp_path, {"brightness": Brightness({}, {})}, clips_at_once=1)
    one_by_one = [other.step(step)["brightness/loss"] for step in range(1, 4)]
    assert one_by_one == pytest.approx([row["brightness/loss"] for row in rows[:3]], rel=1e-4)


def test_a_run_with_a_teacher_of_clips_resumes_bit_for_bit_and_hands_on_its_head(tmp_path: Path) -> None:
    teachers = {"brightness": Brightness({}, {}), "cqt": load_teacher("cqt")}
    whole, parts = (
        small_engine(tmp_path, teachers, steps=4, checkpoint_every=2, out=str(tmp_path / out))
        for out in ("whole", "parts")
    )
    whole.run()
    parts.run(until=2)
    again = small_engine(tmp_path, teachers, steps=4, checkpoint_every=2, out=str(tmp_path / "parts"))
    again.run()
    for (name, x), y in zip(whole.objective.state_dict().items(), again.objective.state_dict().values(), strict=True):
        assert torch.equal(x, y), name
    heads = read_heads(tmp_path / "parts")
    assert set(heads) == {"brightness", "cqt"}
    head = whole.objective.head_of("brightness").state_dict()
    assert {key: tensor.tolist() for key, tensor in heads["brightness"].items()} == {
        k: t.tolist() for k, t in head.items()
    }
    config = PretrainerConfig.of(replace(again.recipe, init="parts"), teachers)
    trained = {name: TrainedHead(state=state, teacher=teachers[name].fingerprint) for name, state in heads.items()}
    start = Start(config=config.model, state=whole.objective.model.state_dict(), base={}, heads=trained)
    further = new_pretrainer(config, {}, start).head_of("brightness").state_dict()
    assert all(torch.equal(further[key], tensor) for key, tensor in head.items())


def test_a_teacher_is_fitted_at_the_rate_of_its_music(tmp_path: Path, write: Callable[..., Path]) -> None:
    """k-means listens at 16 kHz of itself, as HuBERT's did: the command tells it what it is given."""
    from mert.cli.teachers import fit_teacher as command

    for i in range(3):
        write(f"music/{i}.wav", music(1.2, seed=i))
    for asked_hz, settings in ((24_000, []), (16_000, []), (16_000, ["sample_rate=16000"])):
        out = tmp_path / f"{asked_hz}-{len(settings)}"
        command("kmeans", str(tmp_path / "music"), out, ["n_classes=8", *settings], clips=3, rate_hz=asked_hz)
        teacher = load_teacher(str(out))
        assert (teacher.sample_rate, teacher.rate_hz) == (asked_hz, asked_hz / 320)
    with pytest.raises(
        UsageError, match="is asked for 16000 Hz, and the music comes at 24000 Hz; give --rate-hz 16000"
    ):
        command("kmeans", str(tmp_path / "music"), tmp_path / "x", ["sample_rate=16000"], clips=3, rate_hz=24_000)
    command("random_projection", str(tmp_path / "music"), tmp_path / "rp", [], clips=3, rate_hz=16_000)
    assert load_teacher(str(tmp_path / "rp")).sample_rate == 16_000
    with pytest.raises(UsageError, match="works at 24000 Hz, and the music came at 16000 Hz"):
        codec = ["steps=1", "crop_s=0.5", "n_filters=2", "dimension=8", "n_codebooks=1", "n_classes=4"]
        command("encodec_small", str(tmp_path / "music"), tmp_path / "x", codec, clips=3, rate_hz=16_000)
    assert not (tmp_path / "x").exists()


def test_a_recording_that_cannot_be_read_is_left_out_of_a_fit_by_name(
    tmp_path: Path, write: Callable[..., Path]
) -> None:
    for i in range(3):
        write(f"music/{i}.wav", music(1.2, seed=i))
    fit = ("fit-teacher", "kmeans", tmp_path / "music", "--set", "n_classes=8", "-d", "cpu")
    assert run_mert(*fit, "-o", tmp_path / "without").code == 0
    write("music/nan.wav", np.full(30_000, np.nan, np.float32), subtype="FLOAT")
    run = run_mert(*fit, "-o", tmp_path / "with")
    assert run.code == 0 and run.err.count("left out: ") == 1 and "nan.wav" in run.err
    fingerprints = {load_teacher(str(tmp_path / name)).fingerprint for name in ("with", "without")}
    assert len(fingerprints) == 1


def test_a_model_of_16_khz_learns_from_k_means_and_the_constant_q_transform(
    tmp_path: Path, write: Callable[..., Path]
) -> None:
    waves = [music(1.2, 16_000, seed=i) for i in range(3)]
    for i, wave_N in enumerate(waves):
        write(f"music/{i}.wav", wave_N, 16_000)
    fit_teacher("kmeans", waves, n_classes=8).save(tmp_path / "km")
    recipe = replace(
        nano_recipe(), out=str(tmp_path / "run"), data=str(tmp_path / "music"), teachers=("km", "cqt"),
        model=tiny_config(pre_norm=True, sample_rate=16_000), filterbank_start=False, codebook_start=False,
        batch_clips=2, group_clips=2, clip_s=0.6, steps=2, warmup_steps=0, validate_clips=1, class_width=8,
    )  # fmt: skip
    names = (str(tmp_path / "km"), "cqt", "random_projection")
    teachers = {teacher.name: teacher for teacher in (load_teacher(name, 16_000) for name in names)}
    corpus = open_corpus(recipe.data, 16_000, recipe.clip_samples, {})
    row = Engine(recipe, corpus, teachers, ALONE).step(1)
    assert {"kmeans/loss_0", "cqt/loss", "random_projection/loss_3"} <= set(row)


def test_a_teacher_that_is_there_is_replaced_only_if_asked(tmp_path: Path, write: Callable[..., Path]) -> None:
    from mert.cli.teachers import fit_teacher as command

    write("music/0.wav", music(1.2))
    data, out = str(tmp_path / "music"), tmp_path / "teacher"
    command("random_projection", data, out, [], clips=1, rate_hz=24_000)
    written = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(UsageError, match=r"holds a teacher, on which runs .* give another -o, or --overwrite"):
        command("random_projection", data, out, ["seed=1"], clips=1, rate_hz=24_000)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == written
    command("random_projection", data, out, ["seed=1"], clips=1, rate_hz=24_000, overwrite=True)
    assert {path.name: path.read_bytes() for path in out.iterdir()} != written


@pytest.mark.parametrize("n, clips, fitted", [(10, 4, 4), (7, 4, 4), (3, 4, 3), (9, 5, 5)])
def test_a_teacher_is_fitted_to_at_most_so_many_clips(n: int, clips: int, fitted: int) -> None:
    from mert.cli.teachers import Pieces
    from mert.train.corpus.base import GeneratedCorpus

    class Ones:
        seconds = 0.1

        def __len__(self) -> int:
            return n

        def read(self, index: int) -> np.ndarray:
            return np.ones(2_400, np.float32)

    assert fitted // 2 < len(list(Pieces(GeneratedCorpus(Ones(), 24_000), clips))) <= fitted
