"""Recipes: what is wrong in one is named with its key, value and remedy; the warm-up follows the steps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

pytest.importorskip("yaml")
pytest.importorskip("tensorboard")

import torch
import yaml

from mert.cli.main import app
from mert.errors import MertError, UsageError
from mert.train.corpus.opening import open_corpus
from mert.train.recipe import NAMED, Recipe, nano_recipe, read_recipe
from mert.train.run_folder import trained_config


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("batch_clips=24", "recipe: batch_clips=24; give a multiple of group_clips=16"),
        ("parallel=dp", "recipe: parallel=dp; give ddp or fsdp"),
        ("dtype=float16", "recipe: dtype=float16; give auto, float32 or bfloat16"),
        ("warmup_steps=2000", "recipe: warmup_steps=2000 with steps=2000; give 0 to 1999, or more steps"),
        ("clip_s=0.01", "recipe: clip_s=0.01; give at least 0.1013"),
        ("teachers=[]", "recipe: teachers=; name at least one teacher"),
        ("steps=0", "recipe: steps=0; give 1 or more"),
        ("seed=-1", "recipe: seed=-1; give 0 or more"),
        ("validate_clips=-1", "recipe: validate_clips=-1; give 0 or more"),
        ("lr=-1", "recipe: lr=-1.0; give 0 or more"),
        ("lr=nan", "recipe: lr=nan; give 0 or more"),
        ("seed=99999999999999999999", "recipe: seed=99999999999999999999; give 0 to 9223372036854775807"),
        ("weights.frames=-1", "nano: weights: frames=-1.0 is no weight: give 0 or more; change these values"),
        ("weights.codes=nan", "nano: weights: codes=nan is no weight"),
        ("weights.teachers.cqt=-1", "nano: weights: teachers.cqt=-1.0 is no weight"),
        ("clip_norm=0", "recipe: clip_norm=0.0; give a number above 0"),
        ("betas=0.9,1.5", r"recipe: betas=\(0.9, 1.5\); give two numbers from 0 to below 1"),
        ("mask_probability=1.5", "recipe: mask_probability=1.5; give 0 to 1"),
        ("mixing.apply_prob=2", "recipe: mixing.apply_prob=2.0; give 0 to 1"),
        ("mixing.shortest=9999", "recipe: mixing.shortest=9999; give 0 to mixing.longest=6000"),
        ("model.n_heads=7", "nano: model: dim=256 must be a multiple of n_heads=7.*; change these values"),
        ("model.n_heads=0", "nano: model: .*; change these values"),
        ("mixing=3", "nano: mixing=3: has the wrong type; give key: value pairs"),
        ("mixing.prob=1", "nano: mixing.prob: unknown key; known are apply_prob, gain"),
        ("stepz=5", "nano: stepz: unknown key; known are activation_checkpointing"),
        ("steps=many", "nano: steps='many': has the wrong type; give int"),
        ("steps.x=3", "nano: steps=.*: has the wrong type; give int"),
        ("lr=[1", "lr=.*1.: has the wrong type; give float"),
        ("steps", "steps: is not key=value"),
    ],
)
def test_a_wrong_value_is_named_with_its_key_and_what_would_be_right(override: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_recipe("nano", [override])


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ("base: nanoo", [], "r.yaml: base=nanoo: is no recipe; give one of nano, v0_95m"),
        ("base: [nano]", [], "r.yaml: base=.*: is no recipe"),
        ("steps: 5", ["steps.x=3"], "steps.x=3: steps=5 of .*r.yaml has no keys of its own; give steps=VALUE"),
        ("stepz: 5", [], "r.yaml: stepz: unknown key"),
        ("data_options: {a: &a [x, x], b: [*a, *a]}", [], "it uses aliases"),
        ("a: " + "[" * 100_000, [], "nested more than 50 deep"),
        ("base: foo", [], "base=foo: is no recipe"),
        ("model: 5", [], "model=5: has the wrong type"),
        ("model: {n_layers: 1000000000}", [], "n_layers=1000000000 is not from"),
        ("lr: .nan", [], "lr=nan"),
        ("clip_s: .nan", [], "clip_s=nan"),
        ("betas: []", [], "betas"),
        ("mask_length: -5", [], "mask_length=-5"),
        ("steps: 5", ["steps=&a [*a]"], "has the wrong type; give int"),
        ("steps: 5", ["steps={"], "has the wrong type; give int"),
        ("- 1", [], "r.yaml: holds no mapping"),
        ("a: [", [], "r.yaml: no recipe of this name or file"),
    ],
)
def test_a_wrong_recipe_file_is_named(text: str, overrides: list[str], message: str, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(UsageError, match=message):
        read_recipe(str(tmp_path / "r.yaml"), overrides)


def test_the_warm_up_is_at_most_a_tenth_of_the_steps_unless_it_is_given(tmp_path: Path) -> None:
    assert (read_recipe("nano", ["steps=40"]).warmup_steps, read_recipe("nano", ["steps=5"]).warmup_steps) == (4, 0)
    assert read_recipe("nano", ["steps=5000"]).warmup_steps == NAMED["nano"]().warmup_steps == 100
    assert read_recipe("nano", ["steps=40", "warmup_steps=39"]).warmup_steps == 39
    assert [read_recipe(name) for name in NAMED] == [make() for make in NAMED.values()]
    short = read_recipe("nano", ["steps=40"])
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(short.to_dict()))  # as a run writes it
    assert read_recipe(str(tmp_path)) == short
    assert read_recipe(str(tmp_path), ["steps=400"]).warmup_steps == 4
    (tmp_path / "given.yaml").write_text("steps: 40\nwarmup_steps: 20\n")
    assert read_recipe(str(tmp_path / "given.yaml")).warmup_steps == 20
    assert read_recipe(str(tmp_path / "given.yaml"), ["steps=10"]).warmup_steps == 1
    assert read_recipe(str(tmp_path / "given.yaml"), ["steps=1000"]).warmup_steps == 20
    assert read_recipe(str(tmp_path / "given.yaml"), ["steps=30", "warmup_steps=20"]).warmup_steps == 20
    assert read_recipe("mert-nano", ["steps=2"]).warmup_steps == 0
    (tmp_path / "short.yaml").write_text("steps: 40\n")
    assert read_recipe(str(tmp_path / "short.yaml")).lr_at(4) == short.lr


def test_a_short_run_has_a_learning_rate_at_every_step() -> None:
    recipe = read_recipe("nano", ["steps=1"])
    assert isinstance(recipe, Recipe) and recipe.lr_at(1) == 0


@pytest.mark.parametrize(
    ("line", "error", "message"),
    [
        ("pretrain nano data_options.purpose=x", UsageError, "synth takes no such options .purpose is"),
        ("pretrain nano data_options.x=1", UsageError, "data_options={'x': 1}: synth takes no such options"),
        ("pretrain nano data=nowhere", UsageError, "data=nowhere: no folder"),
        ("pretrain nano teachers=cqt,cqt data_options.n_items=4", UsageError, "names cqt twice"),
        ("pretrain nano teachers=nobody data_options.n_items=4", MertError, "nobody: is neither a saved teacher"),
        ("pretrain nano --resume maybe", SystemExit, "2"),
        ("pretrain nano --engine jax", SystemExit, "2"),
        ("fit-teacher mel_rvq synth -o X --set n_classes", UsageError, "n_classes: is not key=value"),
        ("fit-teacher mel_rvq synth -o X --set n_classes=many", MertError, "n_classes='many' does not fit; give whole"),
        ("fit-teacher mel_rvq synth -o X --set n_classes=0", MertError, "n_classes=0 does not fit"),
        ("fit-teacher mel_rvq synth -o X --set seed=-1", MertError, "seed=-1 does not fit"),
        ("fit-teacher kmeans synth -o X --set features=3", MertError, "features=3 does not fit; give text"),
        ("fit-teacher kmeans synth -o X --set n_classes=[4,0]", MertError, "n_classes=.4, 0. does not fit"),
        (
            "fit-teacher random_projection synth -o X --set stepz=1",
            MertError,
            "unknown settings .'stepz'.; choose from",
        ),
        ("fit-teacher cqt synth -o X", MertError, "cqt: is not fitted"),
        ("fit-teacher mel_rvq synth -o X --rate-hz 0", SystemExit, "2"),
        ("tokenize nowhere -o X --teacher random_projection", UsageError, "data=nowhere: no folder"),
        ("tokenize synth -o X --teacher nobody", MertError, "nobody: is neither a saved teacher"),
        ("continue-pretrain mert-nano nano steps=0", UsageError, "steps=0; give 1 or more"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_wrong_values_of_the_training_commands_are_errors_of_ours(
    line: str, error: type[BaseException], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        app(line.split())
    assert not (tmp_path / "X").exists()


def test_the_type_that_auto_stands_for_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, gpu = read_recipe("v1_95m"), torch.device("cuda")
    assert recipe.dtype == "auto" and recipe.on(torch.device("cpu")).dtype == "float32"
    for native, dtype in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, native=native: native)
        assert recipe.on(gpu).dtype == dtype
        assert read_recipe("nano").on(gpu).dtype == "float32"


def test_an_exported_model_says_whether_its_clips_came_at_one_level() -> None:
    assert {name for name, make in NAMED.items() if make().model.normalize} == {"nano", "adapt"}
    assert trained_config(NAMED["nano"]()).normalize  # as `Batches` gives it clips


def test_options_of_other_data_do_not_stay(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("{base: nano, data: synth, data_options: {n_items: 9}}")
    assert read_recipe(str(path)).data_options == {"n_items": 9}
    assert read_recipe(str(path), ["data=music"]).data_options == {}
    assert read_recipe(str(path), ["data_options.seed=2", "data=sampled"]).data_options == {"seed": 2}
    assert read_recipe("mert-nano", ["data=music"]).data_options == {}


def test_generated_clips_are_as_long_as_they_are_used(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "long.wav", np.zeros(72_000, np.float32), 24_000)
    plain = open_corpus("synth", 24_000, 36_000, {"n_items": 3}, clip_s=1.5)
    assert plain.lengths.tolist() == [36_000] * 3
    assert open_corpus("synth", 24_000, 36_000, {"n_items": 1, "seconds": 2}, clip_s=1.5).lengths.tolist() == [48_000]
    mixed = open_corpus(f"{tmp_path},synth", 24_000, 36_000, {}, weights=(1, 1), clip_s=1.5)
    assert mixed.lengths[:2].tolist() == [72_000, 36_000]


def test_bfloat16_that_a_cpu_would_emulate_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for native in (False, True):
        monkeypatch.setattr("mert.train.recipe.has_bfloat16", lambda kind, native=native: native)
        for dtype, resolved in (("bfloat16", "bfloat16"), ("auto", "float32"), ("float32", "float32")):
            caplog.clear()
            assert replace(nano_recipe(), dtype=dtype).on(torch.device("cpu")).dtype == resolved
            assert ("is emulated on this CPU" in caplog.text) == (dtype == "bfloat16" and not native)


def test_a_mixing_that_has_no_effect_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    for override in ("mixing.longest=24000", "mixing.apply_prob=0"):
        read_recipe("nano", [override]).on(torch.device("cpu"))
    assert not caplog.text
    for override in ("mixing.longest=24001", "group_clips=1"):
        caplog.clear()
        read_recipe("nano", [override]).on(torch.device("cpu"))
        assert "no clips are mixed" in caplog.text
