"""On from trained weights: which models, heads and settings are taken, which are refused, and what does not move."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from harness.commands import run_mert
from harness.sounds import tiny_config, tiny_embedder

pytest.importorskip("yaml")
pytest.importorskip("tensorboard")
pytest.importorskip("matplotlib")

from harness.small_runs import ALONE, rows, small_recipe, write_recordings

from mert.cli.train import load_teachers
from mert.errors import MertError, UsageError
from mert.models.config import nano
from mert.models.mert import Mert
from mert.train.corpus.opening import open_corpus
from mert.train.engine import Engine
from mert.train.initialisation import PretrainerConfig, new_pretrainer
from mert.train.objective import CodeHead
from mert.train.recipe import adapt, read_recipe
from mert.train.start import open_start, read_plan
from mert.weights import formats
from mert.weights.publish import save_pretrained
from teachers.random_projection import RandomProjectionTeacher

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled", "ignore:TypedStorage is deprecated")


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recordings(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_pretrained(tiny_embedder(dropout=0.1), tmp_path_factory.mktemp("model") / "tiny"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, recordings: Path) -> Engine:
    """A run of two steps with two teachers."""
    config = small_recipe(tmp_path_factory.mktemp("run"), recordings, teachers=["random_projection", "cqt"])
    trained = engine(config)
    trained.run(until=2)
    return trained


def engine(config: str, *overrides: str) -> Engine:
    recipe, start = read_plan(config, overrides)
    corpus = open_corpus(recipe.data, recipe.model.sample_rate, recipe.clip_samples, {})
    return Engine(recipe, corpus, load_teachers(recipe.teachers), ALONE, start)


def on_from(folder: Path, recordings: Path, init: object, **changes: Any) -> str:
    """A small recipe that goes on from weights, whose model it therefore does not state."""
    path = Path(small_recipe(folder, recordings, init=str(init), **changes))
    path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key != "model"}))
    return str(path)


def tensors(module: torch.nn.Module, prefix: str) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in module.state_dict().items() if name.startswith(prefix)}


def same(one: Engine, other: Engine, prefix: str) -> bool:
    a, b = tensors(one.objective, prefix), tensors(other.objective, prefix)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_run_gives_its_weights_and_the_heads_of_the_same_teachers(
    tmp_path: Path, recordings: Path, run: Engine
) -> None:
    RandomProjectionTeacher.seeded(5, n_codebooks=8, n_classes=1024).save(tmp_path / "other")
    config = on_from(tmp_path, recordings, run.recipe.out, teachers=["random_projection", "cqt"])
    kept = engine(config)
    assert same(kept, run, "")
    assert kept.recipe.model == replace(run.recipe.model, window_s=run.recipe.clip_s)
    new = engine(config, "heads=new", f"out={tmp_path / 'new'}")
    assert same(new, run, "model.") and not any(same(new, run, kind) for kind in ("code_heads.", "frame_heads."))
    other = engine(config, f"teachers={tmp_path / 'other'},cqt", f"out={tmp_path / 'new'}")
    assert same(other, run, "frame_heads.") and not same(other, run, "code_heads.")
    with pytest.raises(UsageError, match=r"heads=keep: .*run has no head of random_projection with these classes"):
        engine(config, f"teachers={tmp_path / 'other'},cqt", "heads=keep")
    with pytest.raises(UsageError, match="has no head of random_projection"):
        engine(config, "class_width=4", "heads=keep")


def test_heads_of_a_fairseq_checkpoint_give_its_logits(tmp_path: Path) -> None:
    """Four classes that nothing uses stand before the codes of each codebook there; ours may leave them out."""
    torch.manual_seed(0)
    mert = Mert(tiny_config(dim=64, n_heads=1, window_s=5.0))
    table = formats.names(mert.config, "fairseq")
    state = {table[name]: tensor for name, tensor in mert.state_dict().items()}
    n_codes, width, dim = 6, 8, 64
    state |= {
        "final_proj.weight": torch.randn(2 * width, dim), "final_proj.bias": torch.randn(2 * width),
        "label_embs_concat": torch.randn(2 * (n_codes + 4), width),
        "encoder_cqt_model.fc.weight": torch.randn(336, dim), "encoder_cqt_model.fc.bias": torch.randn(336),
        "encoder_cqt_model.spec_layer.lenghts": torch.zeros(336),
    }  # fmt: skip
    torch.save({"model": state, "cfg": {"model": argparse.Namespace(layer_norm_first=False)}}, tmp_path / "mert.pt")
    start = open_start(str(tmp_path / "mert.pt"))
    states_SD = torch.randn(5, dim)
    projected_SKE = F.linear(states_SD, state["final_proj.weight"], state["final_proj.bias"]).unflatten(1, (2, width))
    for extra in (0, 4):
        config = PretrainerConfig(
            model=start.config, n_classes={"encodec": (n_codes,) * 2}, n_bins={"cqt": 336}, class_width=width,
            extra_classes=extra, init="mert.pt", heads="keep", teachers={"encodec": "e", "cqt": "c"},
        )  # fmt: skip
        objective = new_pretrainer(config, {}, start)
        head = objective.code_heads["encodec"]
        assert isinstance(head, CodeHead)
        for k, logits_SC in enumerate(head.logits(states_SD)):
            classes_CE = state["label_embs_concat"].unflatten(0, (2, n_codes + 4))[k, 4 - extra :]
            cosine_SC = F.cosine_similarity(projected_SKE[:, k, None], classes_CE[None], dim=2)
            torch.testing.assert_close(logits_SC, cosine_SC / 0.1)
        assert torch.equal(
            objective.frame_heads.state_dict()["cqt.projection.bias"], state["encoder_cqt_model.fc.bias"]
        )
    with pytest.raises(UsageError, match=r"mert\.pt has no head of kmeans"):
        new_pretrainer(replace(config, n_classes={"kmeans": (n_codes,) * 2}, teachers={"kmeans": "k"}), {}, start)


@pytest.mark.parametrize("key", ["dropout", "attention_dropout", "input_dropout", "layer_drop"])
def test_dropouts_of_trained_weights_can_change(key: str, model: str) -> None:
    recipe, start = read_plan("nano", [f"init={model}", f"model.{key}=0.25"])
    assert start and recipe.model == replace(start.config, **{key: 0.25})


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.dim=64", r"model.dim=64: the weights of init=.*tiny have 32; leave it out; of trained weights only"),
        ("model.pre_norm=true", "model.pre_norm=True: the weights of init=.*tiny have False"),
        ("model.sample_rate=16000", "model.sample_rate=16000: the weights of init=.*tiny have 24000"),
        ("model.depth=3", "nano: model.depth: unknown key"),
        ("heads=old", "heads=old; give auto, keep or new"),
        ("init=nowhere/at/all", "nowhere/at/all: no such file or folder"),
        ("init=mert-v1-95", "mert-v1-95: no registered model of this name; try mert-v1-95m"),
    ],
)
def test_what_trained_weights_cannot_follow_is_refused_by_name(override: str, message: str, model: str) -> None:
    with pytest.raises(MertError, match=message):
        read_plan("nano", [f"init={model}", override])


def test_adapt_fits_itself_to_the_model_and_wants_one(model: str) -> None:
    with pytest.raises(UsageError, match="adapt: goes on from trained weights; give init=NAME, such as init=mert-nano"):
        read_plan("adapt")
    recipe, start = read_plan("adapt", ["init=mert-nano", "steps=40"])
    assert start and start.base["name"] == "mert-nano" and start.base["licence"] == "Apache-2.0"
    assert recipe.model == nano() and recipe.clip_s == 3.0 and recipe.warmup_steps == 4
    assert read_plan("adapt", [f"init={model}"])[0].clip_s == tiny_config().window_s
    assert (adapt().mixing.shortest, adapt().mixing.longest) == (7_200, 14_400)


def test_other_clips_and_teachers_can_be_trained_on_and_the_export_has_the_new_window(
    tmp_path: Path, recordings: Path, model: str
) -> None:
    config = on_from(tmp_path, recordings, model, clip_s=0.4, teachers=["cqt"])
    done = run_mert("continue-pretrain", model, config, "steps=3")
    assert done.code == 0, done.err
    assert "on from tiny (sha256 " in done.out and "apache-2.0; heads of cqt new" in done.out
    assert run_mert("pretrain", config, "steps=3", f"out={tmp_path / 'other'}").code == 0
    assert rows(tmp_path / "run") == rows(tmp_path / "other")
    assert run_mert("export", tmp_path / "run", tmp_path / "model").code == 0
    exported = read_plan("adapt", [f"init={tmp_path / 'model'}"])[0]
    assert exported.clip_s == 0.4 and exported.model == replace(tiny_config(dropout=0.1), window_s=0.4)


def test_the_front_end_stays_as_it_is_in_the_first_steps(tmp_path: Path, recordings: Path, model: str) -> None:
    config = on_from(tmp_path, recordings, model, frozen_frontend_steps=2, warmup_steps=0)
    trained, before = engine(config), engine(config)
    for step in (1, 2, 3):
        trained.step(step)
        assert same(trained, before, "model.frontend.") is (step < 3)
        assert not same(trained, before, "model.projection.")


def test_what_is_asked_for_is_checked_before_the_music_is_opened(model: str) -> None:
    for override, message in (
        ("teachers=nobody", "nobody: is neither a saved teacher nor a name"),
        ("init=nowhere/at/all", "no such file or folder"),
        ("model.dim=33", "dim=33 must be a multiple"),
    ):
        done = run_mert("pretrain", "nano", "data=nowhere", override)
        assert done.code != 0 and message in done.err, done.err


def test_a_small_batch_is_one_group_unless_groups_are_given() -> None:
    assert read_recipe("nano", ["batch_clips=8"]).group_clips == 8
    assert read_recipe("nano", ["batch_clips=64"]).group_clips == 16
    with pytest.raises(UsageError, match="batch_clips=8; give a multiple of group_clips=16"):
        read_recipe("nano", ["batch_clips=8", "group_clips=16"])
