"""The engine: the same bits after a stop, the same losses at any number of processes, and what breaks it."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path
from threading import current_thread
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from harness.commands import Started, run_mert
from harness.forks import pretrain_together
from harness.small_runs import TIMES
from harness.sounds import music, tiny_config

pytest.importorskip("yaml")
pytest.importorskip("tensorboard")
pytest.importorskip("matplotlib")

from mert.errors import TrainingError, UsageError
from mert.train.batches import Batches
from mert.train.checkpoints import MARKER, Checkpoints
from mert.train.corpus.base import CorpusError, from_16_bits, to_16_bits
from mert.train.corpus.opening import open_corpus
from mert.train.corpus.recordings import FileCorpus
from mert.train.corpus.sources import Listed
from mert.train.engine import Engine
from mert.train.parallel import World
from mert.train.recipe import Recipe, read_recipe
from teachers import load_teacher

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled", "ignore:TypedStorage is deprecated")
ALONE = World(0, 1, torch.device("cpu"))
N_RECORDINGS = 15  # 13 to train on: batches of 6 cross the border of an epoch at step 3


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    for i in range(N_RECORDINGS):
        soundfile.write(folder / f"{i:02d}.wav", music(1.0 + 0.05 * i, seed=i), 24_000)
    return folder


def recipe_file(folder: Path, recordings: Path, **changes: Any) -> Path:
    model = tiny_config(dropout=0.1, layer_drop=0.3).to_dict()
    values = {
        "base": "nano", "out": str(folder / "run"), "data": str(recordings), "teachers": ["random_projection", "cqt"],
        "model": model, "steps": 8, "warmup_steps": 2, "batch_clips": 6, "group_clips": 1, "clip_s": 0.5, "seed": 7,
        "checkpoint_every": 4, "validate_every": 4, "validate_clips": 2, "class_width": 8, "filterbank_start": False,
        "mixing": {"shortest": 1000, "longest": 2000},
    } | changes  # fmt: skip
    path = folder / "recipe.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))  # JSON is YAML
    return path


def engine(recipe: Recipe) -> Engine:
    corpus = open_corpus(recipe.data, recipe.model.sample_rate, recipe.clip_samples, {})
    teachers = {name: load_teacher(name) for name in recipe.teachers}
    return Engine(recipe, corpus, teachers, ALONE)


def rows(out: Path) -> list[dict[str, Any]]:
    timed = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name not in TIMES} for row in timed]


def run(config: Path, *overrides: str, processes: int = 1) -> None:
    pretrain_together([str(config), *overrides], processes)


def same_bits(a: Engine, b: Engine) -> bool:
    tensors = zip(a.objective.state_dict().items(), b.objective.state_dict().items(), strict=True)
    weights = all(name == other and torch.equal(x, y) for (name, x), (other, y) in tensors)
    moments = zip(a.optimizer.state_dict()["state"].values(), b.optimizer.state_dict()["state"].values(), strict=True)
    return weights and all(torch.equal(x[key], y[key]) for x, y in moments for key in x)


def test_a_stopped_run_goes_on_with_the_same_bits_across_an_epoch(tmp_path: Path, recordings: Path) -> None:
    group = ["group_clips=3"]  # mixing needs company
    whole = engine(read_recipe(str(recipe_file(tmp_path / "whole", recordings)), group))
    whole.run()
    recipe = read_recipe(str(recipe_file(tmp_path / "parts", recordings)), group)
    first = engine(recipe)
    first.run(until=6)  # two steps beyond the checkpoint, which will be done again
    second = engine(recipe)
    assert not same_bits(whole, second)
    second.run()
    assert same_bits(whole, second)
    assert rows(tmp_path / "whole/run") == rows(tmp_path / "parts/run")
    assert [row["step"] for row in rows(tmp_path / "parts/run")] == list(range(1, 9))
    for name in ("curves.png", "recipe.yaml", "tensorboard"):
        assert (tmp_path / "parts/run" / name).exists()


def test_a_run_stopped_before_every_layer_was_trained_goes_on(tmp_path: Path, recordings: Path) -> None:
    """Layers that were dropped in all steps so far have moments, too."""
    model = tiny_config(layer_drop=0.95).to_dict()
    whole = engine(read_recipe(str(recipe_file(tmp_path / "whole", recordings, model=model))))
    whole.run(until=2)
    recipe = read_recipe(str(recipe_file(tmp_path / "parts", recordings, model=model, checkpoint_every=1)))
    engine(recipe).run(until=1)
    second = engine(recipe)
    second.run(until=2)
    assert same_bits(whole, second)


def test_a_resume_takes_the_optimisers_settings_from_its_recipe(tmp_path: Path, recordings: Path) -> None:
    config = str(recipe_file(tmp_path, recordings, checkpoint_every=1))
    engine(read_recipe(config)).run(until=1)
    second = engine(read_recipe(config, ["weight_decay=0.5", "eps=1e-3"]))
    assert second._resume(allow_changes=True)[0] == 1
    (group,) = second.optimizer.param_groups
    assert (group["weight_decay"], group["eps"]) == (0.5, 1e-3)


def test_a_run_begun_anew_is_never_continued_from_older_checkpoints(tmp_path: Path, recordings: Path) -> None:
    config = str(recipe_file(tmp_path, recordings))
    engine(read_recipe(config)).run(until=4)
    anew = read_recipe(config, ["lr=1e-5"])
    assert engine(anew).run(resume=False, until=1) == 1  # ends before its first checkpoint
    assert engine(anew).checkpoints.newest() is None
    third = engine(anew)
    third.run(until=4)
    whole = engine(replace(anew, out=str(tmp_path / "whole")))
    whole.run(until=4)
    assert same_bits(third, whole)


def test_the_guard_begins_anew_where_the_loss_may_be_of_another_size(tmp_path: Path, recordings: Path) -> None:
    config = str(recipe_file(tmp_path, recordings, steps=26, checkpoint_every=22, warmup_steps=2))
    engine(read_recipe(config)).run(until=22)
    heavier = engine(read_recipe(config, ["weights.teachers.cqt=100"]))
    assert heavier.run(allow_changes=True) == 26
    assert heavier.guard.seen == 4 and not any("skipped" in row for row in rows(tmp_path / "run"))


@pytest.mark.parametrize(
    "field", ["batch_clips", "group_clips", "validate_every", "checkpoint_every", "keep_checkpoints"]
)
@pytest.mark.parametrize("value", [0, -2])
def test_zeros_in_a_recipe_are_refused_before_any_work(
    field: str, value: int, tmp_path: Path, recordings: Path
) -> None:
    with pytest.raises(UsageError, match=f"{field}={value}; give 1 or more"):
        read_recipe(str(recipe_file(tmp_path, recordings)), [f"{field}={value}"])


def test_recordings_of_a_dataset_have_names_of_their_own_and_stay_on_the_disk(tmp_path: Path) -> None:
    """Parquet as it lies on the hub: the sound inside, and a path that is no more than a file name."""
    datasets = pytest.importorskip("datasets")
    waves = [music(0.6, seed=i) for i in range(3)]
    sounds = []
    for i, wave_N in enumerate(waves):
        soundfile.write(tmp_path / f"{i}.wav", wave_N, 24_000, subtype="FLOAT")
        sounds.append({"bytes": (tmp_path / f"{i}.wav").read_bytes(), "path": "audio.wav"})
    (tmp_path / "data").mkdir()
    features = datasets.Features({"audio": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}})
    datasets.Dataset.from_dict({"audio": sounds}, features).to_parquet(tmp_path / "data" / "train.parquet")
    corpus = open_corpus(f"hf:{tmp_path / 'data'}", 24_000, 1_000, {})
    assert [corpus.name(i) for i in range(3)] == ["0:audio.wav", "1:audio.wav", "2:audio.wav"]
    for i, wave in enumerate(waves):
        np.testing.assert_array_equal(corpus.read(i, 0, len(wave)), from_16_bits(to_16_bits(wave)))
    assert all(callable(listed.source) for listed in corpus._listed)  # type: ignore[attr-defined]


def test_batches_are_pure_functions_of_seed_and_step(recordings: Path, tmp_path: Path) -> None:
    recipe = read_recipe(str(recipe_file(tmp_path, recordings)), ["group_clips=3"])
    made = [engine(recipe).batches for _ in range(2)]
    made[1].group(5, 0)
    one, other = made[0].group(2, 1), made[1].group(2, 1)
    assert torch.equal(one.wave_BN, other.wave_BN)
    assert torch.equal(one.mask_BT, other.mask_BT)
    assert all(torch.equal(one.codes[name], other.codes[name]) for name in one.codes)
    assert made[0].counts(2, 1)[0] == one.n_masked
    assert not torch.equal(one.wave_BN, made[0].group(3, 1).wave_BN)
    changed = Batches(read_recipe(str(tmp_path / "recipe.yaml"), ["group_clips=3", "seed=8"]), made[0].corpus,
                      made[0].teachers, made[0].device)  # fmt: skip
    assert not torch.equal(one.wave_BN, changed.group(2, 1).wave_BN)


def test_groups_are_read_ahead_and_a_failure_comes_in_its_own_step(recordings: Path, tmp_path: Path) -> None:
    """Two groups a step: from the second on, all are read by the thread; the sixth cannot be."""
    trained = engine(read_recipe(str(recipe_file(tmp_path, recordings)), ["group_clips=3"]))
    corpus, threads = trained.batches.corpus, []

    def read(index: int, start: int, n_samples: int) -> np.ndarray:
        threads.append(current_thread().name)
        if len(threads) > 5 * 3:
            raise CorpusError("the disk", "is gone", "leave it")
        return type(corpus).read(corpus, index, start, n_samples)

    corpus.read = read  # type: ignore[method-assign]
    trained.step(1)
    trained.step(2)
    with pytest.raises(CorpusError, match="is gone"):
        trained.step(3)
    assert threads[:3] == [current_thread().name] * 3
    assert all(name.startswith("read-ahead") for name in threads[3:])


def test_an_epoch_takes_each_training_recording_once_and_none_held_out(recordings: Path, tmp_path: Path) -> None:
    batches = engine(read_recipe(str(recipe_file(tmp_path, recordings)), ["validate_share=0.2"])).batches
    cuts = [batches.draw.cut(step, number) for step in range(1, 14) for number in range(6)]
    drawn = [index for cut in cuts for index in cut.recordings]
    epochs = [drawn[start : start + 13] for start in range(0, 78, 13)]
    held_out = set(range(N_RECORDINGS)) - set(drawn)
    assert all(sorted(epoch) == sorted(set(drawn)) for epoch in epochs) and epochs[0] != epochs[1]
    assert len(held_out) == 2 and held_out == set(batches.draw.held_out.tolist())
    assert sum(group.mask_BT.shape[0] for group in batches.validation()) == 2


def test_targets_are_those_of_the_clean_clips(recordings: Path, tmp_path: Path) -> None:
    recipe = read_recipe(str(recipe_file(tmp_path, recordings)), ["group_clips=3", "mixing.apply_prob=1"])
    batches = engine(recipe).batches
    disturbed = batches.group(1, 0)
    still = Batches(read_recipe(str(tmp_path / "recipe.yaml"), ["group_clips=3", "mixing.apply_prob=0"]),
                    batches.corpus, batches.teachers, batches.device).group(1, 0)  # fmt: skip
    assert not torch.equal(disturbed.wave_BN, still.wave_BN)
    assert torch.equal(disturbed.codes["random_projection"], still.codes["random_projection"])
    assert torch.equal(disturbed.frames["cqt"], still.frames["cqt"])


@pytest.mark.parametrize(
    ("parallel", "processes"),
    [
        ("ddp", 2),
        pytest.param("fsdp", 2, marks=pytest.mark.check),
        pytest.param("ddp", 3, marks=pytest.mark.check),
    ],
)
def test_many_processes_give_the_losses_of_one(
    parallel: str, processes: int, tmp_path: Path, recordings: Path, alone: list[dict[str, Any]]
) -> None:
    config = recipe_file(tmp_path, recordings)
    run(config, f"parallel={parallel}", "model.layer_drop=0", processes=processes)
    for row, wanted in zip(rows(tmp_path / "run"), alone, strict=True):
        assert row["loss"] == pytest.approx(wanted["loss"], rel=1e-5)
        assert row["grad_norm"] == pytest.approx(wanted["grad_norm"], rel=1e-3)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, recordings: Path) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("alone")
    run(recipe_file(folder, recordings), "model.layer_drop=0")
    return rows(folder / "run")


@pytest.mark.check
@pytest.mark.parametrize(("parallel", "before", "after"), [
    ("ddp", 2, 2), ("fsdp", 2, 2), ("fsdp", 2, 1), ("ddp", 1, 2), ("ddp", 2, 3),
])  # fmt: skip
def test_a_run_goes_on_at_another_world_size(
    parallel: str, before: int, after: int, tmp_path: Path, recordings: Path, alone: list[dict[str, Any]]
) -> None:
    config = recipe_file(tmp_path, recordings)
    options = (f"parallel={parallel}", "model.layer_drop=0")
    run(config, *options, "steps=8", processes=before)
    if before == after:  # the same bits
        whole = rows(tmp_path / "run")
        drop_checkpoint(tmp_path / "run", 8)
        run(config, *options, processes=after)
        assert rows(tmp_path / "run") == whole
        return
    drop_checkpoint(tmp_path / "run", 8)
    run(config, *options, processes=after)
    for row, wanted in zip(rows(tmp_path / "run"), alone, strict=True):
        assert row["loss"] == pytest.approx(wanted["loss"], rel=1e-5)


def drop_checkpoint(out: Path, step: int) -> None:
    shutil.rmtree(out / "ckpt" / f"step_{step:08d}")


def test_a_world_that_cannot_share_the_groups_is_refused() -> None:
    with pytest.raises(UsageError, match="cannot share 6 groups"):
        World(0, 4, torch.device("cpu")).share(6)


def test_a_corrupt_newest_checkpoint_falls_back_to_the_one_before(
    tmp_path: Path, recordings: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = read_recipe(str(recipe_file(tmp_path, recordings)))
    engine(recipe).run()
    wanted = rows(Path(recipe.out))
    newest = max((Path(recipe.out) / "ckpt").iterdir())
    data = next(newest.glob("*.distcp"))
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    with caplog.at_level(logging.WARNING, "mert"):
        assert engine(recipe).run() == 8
    assert "is damaged; an older checkpoint is used" in caplog.text
    assert rows(Path(recipe.out)) == wanted


def test_a_save_that_was_cut_off_is_not_a_checkpoint_and_the_last_good_one_is_kept(
    tmp_path: Path, recordings: Path
) -> None:
    recipe = read_recipe(str(recipe_file(tmp_path, recordings)), ["keep_checkpoints=1"])
    engine(recipe).run(until=4)
    checkpoints = Checkpoints(Path(recipe.out), ALONE, 1)
    (good,) = checkpoints.complete()
    torn = good.parent / "step_00000005"
    shutil.copytree(good, torn)
    (torn / MARKER).unlink()
    assert checkpoints.newest() == good
    assert engine(recipe).run() == 8
    assert [path.name for path in checkpoints.complete()] == ["step_00000008"]


def test_sigterm_finishes_the_step_saves_and_the_run_goes_on(tmp_path: Path, recordings: Path) -> None:
    config = recipe_file(tmp_path, recordings, steps=400, checkpoint_every=1000, validate_every=1000)
    process, metrics = Started(tmp_path, ("pretrain", config), fork=True), tmp_path / "run/metrics.jsonl"
    while not (metrics.exists() and len(metrics.read_text().splitlines()) > 2) and process.running():
        time.sleep(0.05)
    process.signal(signal.SIGTERM)
    ended = process.end()
    assert ended.code == 0, ended
    steps = [row["step"] for row in rows(tmp_path / "run")]
    assert steps == list(range(1, len(steps) + 1))
    assert (tmp_path / f"run/ckpt/step_{len(steps):08d}" / MARKER).exists()
    recipe = read_recipe(str(config))
    assert engine(recipe).run(until=len(steps) + 2) == len(steps) + 2
    assert [row["step"] for row in rows(tmp_path / "run")] == list(range(1, len(steps) + 3))


def test_a_checkpoint_of_other_data_is_refused(tmp_path: Path, recordings: Path) -> None:
    config = recipe_file(tmp_path, recordings)
    engine(read_recipe(str(config))).run(until=4)
    fewer = tmp_path / "fewer"
    shutil.copytree(recordings, fewer)
    (fewer / "00.wav").unlink()
    with pytest.raises(TrainingError, match="another corpus"):
        engine(read_recipe(str(config), [f"data={fewer}"])).run()


def test_bad_steps_are_skipped_and_logged_and_too_many_stop_the_run_with_the_batch_kept(
    tmp_path: Path, recordings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = read_recipe(str(recipe_file(tmp_path, recordings)), ["max_bad_steps=2", "checkpoint_every=100"])
    broken = engine(recipe)
    honest = broken.batches.group

    def with_nan(step: int, number: int) -> Any:
        group = honest(step, number)
        if step in (2, 4, 5):
            group.wave_BN[0, 100] = float("nan")
        return group

    monkeypatch.setattr(broken.batches, "next_group", with_nan)
    with pytest.raises(TrainingError, match="2 bad steps in a row"):
        broken.run()
    assert "nan" in rows(Path(recipe.out))[1]["skipped"]
    assert all(torch.isfinite(p).all() for p in broken.objective.parameters())
    assert list(Path(recipe.out).glob("bad_step_00000005*.safetensors"))


def test_a_recording_that_cannot_be_fetched_is_dropped_by_its_name(tmp_path: Path) -> None:
    def fetch() -> bytes:
        raise ValueError("the row is damaged")

    soundfile.write(tmp_path / "a.wav", music(1.0), 24_000)
    good = (tmp_path / "a.wav").read_bytes()
    sources: dict[str, Any] = {"0:gone": fetch, "1:a": lambda: good, "2:text": lambda: b"x", "3:none": None}
    corpus = FileCorpus([Listed(name, source, (1, 0)) for name, source in sources.items()], 24_000, 12_000)
    assert [corpus.name(i) for i in range(len(corpus))] == ["1:a"]
    assert corpus.dropped["0:gone"] == "ValueError: the row is damaged"
    assert corpus.dropped["2:text"].startswith("2:text: ") and set(corpus.dropped) == {"0:gone", "2:text", "3:none"}


def test_short_and_broken_recordings_are_dropped_by_name_and_nothing_left_is_an_error(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "short.wav", music(0.2), 24_000)
    (tmp_path / "broken.wav").write_bytes(b"no sound")
    with pytest.raises(CorpusError, match="2 recordings: none can be used"):
        open_corpus(str(tmp_path), 24_000, 12_000, {})
    soundfile.write(tmp_path / "good.wav", music(1.0), 24_000)
    corpus: Any = open_corpus(str(tmp_path), 24_000, 12_000, {})
    assert len(corpus) == 1
    assert sorted(Path(name).name for name in corpus.dropped) == ["broken.wav", "short.wav"]
    with pytest.raises(UsageError, match="no folder, manifest or generator"):
        open_corpus("nowhere", 24_000, 12_000, {})


def test_pipes_and_notes_of_a_mac_in_a_folder_are_not_trained_on(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", music(1.0), 24_000)
    os.mkfifo(tmp_path / "pipe.wav")  # opening it would wait for ever
    (tmp_path / "._a.wav").write_bytes(bytes(4096))
    corpus: Any = open_corpus(str(tmp_path), 24_000, 12_000, {})
    assert [corpus.name(i) for i in range(len(corpus))] == ["a.wav"] and not corpus.dropped


def test_a_crop_of_a_recording_is_that_part_of_it(tmp_path: Path) -> None:
    wave = music(2.0, 44_100)
    soundfile.write(tmp_path / "a.flac", wave, 44_100)
    for text in ('{"path": 5}', "{", "[" * 100_000, '{"path": "\xff"}'):
        (tmp_path / "list.jsonl").write_text(text, encoding="latin-1")
        with pytest.raises(UsageError, match=r"list\.jsonl"):
            open_corpus(str(tmp_path / "list.jsonl"), 24_000, 12_000, {})
    (tmp_path / "list.jsonl").write_text('{"path": "a.flac"}\n\n')
    corpus = open_corpus(str(tmp_path / "list.jsonl"), 24_000, 12_000, {})
    everything = corpus.read(0, 0, int(corpus.lengths[0]))
    assert len(everything) == 48_000
    np.testing.assert_array_equal(corpus.read(0, 9600, 12_000), everything[9600:21_600])


def test_dry_run_writes_nothing(tmp_path: Path, recordings: Path) -> None:
    config = recipe_file(tmp_path, recordings)
    done = run_mert("pretrain", config, "--dry-run")
    assert done.code == 0 and "of the frames masked" in done.out
    assert not (tmp_path / "run").exists()


def test_a_finished_run_is_a_model_to_publish(tmp_path: Path, recordings: Path) -> None:
    import mert

    trained = engine(read_recipe(str(recipe_file(tmp_path, recordings))))
    trained.run(until=4)
    done = run_mert("export", tmp_path / "run", tmp_path / "model")
    assert done.code == 0, done.err
    assert mert.verify(tmp_path / "model").golden is not None
    loaded = mert.load(tmp_path / "model")
    ours = trained.objective.model.state_dict()
    assert all(torch.equal(tensor, ours[name]) for name, tensor in loaded.model.state_dict().items())
    card = (tmp_path / "model/README.md").read_text()
    assert "4 of 8 steps" in card
    assert "random_projection" in card
    assert loaded.info.licence.lower() == "apache-2.0"


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch's own, while it compiles
@pytest.mark.parametrize("switch", ["activation_checkpointing", pytest.param("compile", marks=pytest.mark.check)])
def test_switches_for_speed_and_memory_leave_the_losses_alone(switch: str, tmp_path: Path, recordings: Path) -> None:
    config = str(recipe_file(tmp_path, recordings))
    options = ["group_clips=3"]
    if switch == "compile":  # a compiled block draws other dropout
        options += ["model.dropout=0", "model.attention_dropout=0"]
    plain, switched = (engine(read_recipe(config, [*options, f"{switch}={on}"])) for on in ("false", "true"))
    for step in (1, 2, 3):
        row, wanted = switched.step(step), plain.step(step)
        assert row["loss"] == pytest.approx(wanted["loss"], rel=1e-5)
        assert row["grad_norm"] == pytest.approx(wanted["grad_norm"], rel=1e-4)


@pytest.mark.parametrize("clips", [1, 2])
def test_a_group_in_parts_has_the_losses_of_the_whole(clips: int, tmp_path: Path, recordings: Path) -> None:
    model = tiny_config(dropout=0.0, attention_dropout=0.0, input_dropout=0.0, layer_drop=0.3).to_dict()
    config = str(recipe_file(tmp_path, recordings, model=model))
    whole, parts = (engine(read_recipe(config, ["group_clips=3", f"clips_at_once={n}"])) for n in (0, clips))
    for step in (1, 2, 3):
        row, wanted = parts.step(step), whole.step(step)
        assert row.keys() == wanted.keys() and row["masked_share"] == wanted["masked_share"]
        for name in set(row) - TIMES:
            assert row[name] == pytest.approx(wanted[name], rel=1e-4 if name == "grad_norm" else 1e-5), name
