"""fairseq2's trainer: the losses of our engine, and what is worked around or refused."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from harness.commands import mert_command
from harness.forks import pretrain_together
from harness.mutation import Canary
from harness.sounds import music, tiny_config, tiny_embedder

pytest.importorskip("yaml")
pytest.importorskip("tensorboard")
pytest.importorskip("matplotlib")

import yaml
from test_train_engine import engine, recipe_file, rows

import mert
from mert.cli.models import export, export_run
from mert.cli.train import pretrain
from mert.errors import CheckpointError, MertError, TrainingError, UsageError
from mert.models.config import MertConfig
from mert.train.fairseq2 import write_asset_card
from mert.train.fairseq2.checkpoints import BEGUN, checkpoints, damage, resume_point
from mert.train.parallel import World
from mert.train.recipe import read_recipe
from mert.weights.publish import save_pretrained

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled", "ignore:TypedStorage is deprecated")
needs_fairseq2 = pytest.mark.skipif(find_spec("fairseq2") is None, reason="fairseq2 is not installed")
ALONE = World(0, 1, torch.device("cpu"))
SECRET = "abc123"
MADE_OF = {"corpus": "c", "teachers": {}, "licences": {}, "base": None, "data_licences": []}


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    for i in range(9):  # 7 to train on: batches of 4 cross the border of an epoch
        soundfile.write(folder / f"{i}.wav", music(0.7 + 0.02 * i, seed=i), 24_000)
    return folder


def config_file(folder: Path, recordings: Path, **changes: Any) -> Path:
    model = tiny_config(dropout=0.1, layer_drop=0.3, conv_dim=8).to_dict()
    changes = {"model": model, "batch_clips": 4, "group_clips": 2, "clip_s": 0.3} | changes
    return recipe_file(folder, recordings, **changes)


def child(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "SECRET_TOKEN_X": SECRET}
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def assert_same(got: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> None:
    """Rows of the same metrics. The seeds, the masks and the rate are exact; sums may end in other digits."""
    assert [list(row) for row in got] == [list(row) for row in wanted]
    for row, other in zip(got, wanted, strict=True):
        assert all(row[name] == other[name] for name in ("step", "lr", "masked_share"))
        for name in ("loss", "grad_norm", "penalty", "cqt/loss"):
            assert row[name] == pytest.approx(other[name], rel=1e-5), f"{name} of step {row['step']}"


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """As in the children: sums in another order have other last digits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def scenarios(recordings: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], str]:
    folder = tmp_path_factory.mktemp("scenarios")
    script = Path(__file__).parents[1] / "harness" / "fairseq2_scenarios.py"
    done = child([sys.executable, str(script), str(config_file(folder, recordings)), str(folder)])
    return folder, json.loads(done.stdout.splitlines()[-1]), done.stderr


@pytest.mark.check
@needs_fairseq2
def test_fairseq2_prints_our_losses_for_fifty_steps_and_no_secrets(
    tmp_path: Path, recordings: Path, one_thread: None
) -> None:
    config = config_file(tmp_path, recordings, steps=50, warmup_steps=10, checkpoint_every=25, validate_every=20)
    done = child(mert_command("pretrain", config, "--engine", "fairseq2"))
    ours = engine(read_recipe(str(config), [f"out={tmp_path / 'ours'}"]))
    ours.checkpoints.save = lambda *arguments: tmp_path  # type: ignore[method-assign]
    ours.run()
    wanted = rows(tmp_path / "ours")
    assert len(wanted) == 50
    assert "valid/loss" in wanted[19]
    assert_same(rows(tmp_path / "run"), wanted)
    logs = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert (tmp_path / "run/logs/rank_0.log") in logs
    assert all(SECRET not in path.read_text(errors="ignore") for path in logs)
    assert SECRET not in done.stdout + done.stderr
    for name in ("curves.png", "recipe.yaml", "tensorboard", "config.yaml"):
        assert (tmp_path / "run" / name).exists()


@pytest.mark.check
@needs_fairseq2
def test_signals_stop_a_run_after_the_step_and_it_goes_on_with_the_same_losses(
    scenarios: tuple[Path, dict[str, Any], str], recordings: Path, tmp_path: Path, one_thread: None
) -> None:
    folder, found, _ = scenarios
    assert (found["sigterm"], found["sigusr1"], found["end"], found["again"]) == (3, 6, 8, 8)
    ours = engine(read_recipe(str(config_file(tmp_path, recordings)), ["steps=8", "warmup_steps=2"]))
    ours.checkpoints.save = lambda *arguments: tmp_path  # type: ignore[method-assign]
    ours.run()
    assert_same(rows(folder / "run"), rows(tmp_path / "run"))
    exported = mert.load(folder / "model", device="cpu").model.state_dict()
    torch.testing.assert_close(exported, dict(ours.objective.model.state_dict()), rtol=1e-4, atol=1e-5)


@needs_fairseq2
def test_a_damaged_checkpoint_is_moved_aside_and_an_older_one_used(
    scenarios: tuple[Path, dict[str, Any], str],
) -> None:
    folder, found, messages = scenarios
    assert (found["damaged"], found["repaired"]) == ("step_8", 8)
    assert "optimizer/pp_00/tp_00/sdp_00.pt is damaged; it is moved to" in messages
    assert (folder / "run/checkpoints/step_8.damaged").is_dir()
    assert [path.name for path in checkpoints(folder / "run")] == ["step_6", "step_8"]
    assert damage(folder / "run/checkpoints/step_8") is None


@needs_fairseq2
@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("steps", "TrainingError: .*fairseq2.json: steps is 16 and was 8 when the run began.*; go on as it began"),
        ("model", "TrainingError: .*fairseq2.json: model is not what it was when the run began"),
        ("never", "UsageError: .*holds checkpoints.*give another out="),
        ("disk", "TrainingError: .*full: fairseq2 stopped .*the same command goes on"),
        ("nan", "TrainingError: step 1: loss is nan; lower lr"),
    ],
)
def test_what_cannot_go_well_is_refused(what: str, message: str, scenarios: tuple[Path, dict[str, Any], str]) -> None:
    assert re.match(message, str(scenarios[1][what]))


@pytest.mark.parametrize("kind", ["model", "optimizer", "trainer", "data_reader"])
def test_a_strangers_run_is_refused_before_its_code_runs(kind: str, tmp_path: Path) -> None:
    for name in ("model", "optimizer", "trainer", "data_reader"):
        file = tmp_path / "run" / "checkpoints" / "step_2" / name / "dp_00.pt"
        file.parent.mkdir(parents=True)
        torch.save({"w": Canary(tmp_path / "ran") if name == kind else torch.zeros(2)}, file)
    (tmp_path / "run" / BEGUN).write_text(json.dumps(MADE_OF))
    with pytest.raises(CheckpointError, match=rf"{kind}.*it holds a posix\.mkdir"):
        resume_point(tmp_path / "run", MADE_OF, {}, World(0, 1, torch.device("cpu")), resume=True)
    assert not (tmp_path / "ran").exists()


@needs_fairseq2
def test_load_model_by_an_asset_card_gives_our_weights(scenarios: tuple[Path, dict[str, Any], str]) -> None:
    assert scenarios[1]["card"] is True


def test_export_writes_the_card_beside_the_weights(tmp_path: Path) -> None:
    save_pretrained(tiny_embedder(), tmp_path / "tiny")
    export(str(tmp_path / "tiny"), tmp_path / "model", "fairseq2")
    card = yaml.safe_load((tmp_path / "model/fairseq2/model.yaml").read_text())
    assert (card["name"], card["model_family"]) == ("model", "mert")
    assert (tmp_path / "model/fairseq2" / card["checkpoint"]).resolve() == tmp_path / "model/model.safetensors"
    assert MertConfig.from_dict(card["model_config"]) == tiny_config()
    (tmp_path / "model/model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="is no model in our format"):
        write_asset_card(tmp_path / "model", "x")


def test_another_number_of_processes_is_refused_and_a_run_of_our_engine_too(tmp_path: Path) -> None:
    assert resume_point(tmp_path, MADE_OF, {"processes": 2}, ALONE, True) == 0
    for kind in ("trainer", "model", "optimizer", "data_reader"):
        (tmp_path / "checkpoints/step_4" / kind).mkdir(parents=True)
        torch.save({}, tmp_path / "checkpoints/step_4" / kind / "rank_00.pt")
    (tmp_path / "checkpoints/step_5.tmp").mkdir()
    assert resume_point(tmp_path, MADE_OF, {"processes": 2}, ALONE, True) == 4
    with pytest.raises(TrainingError, match="processes is 1 and was 2 when the run began"):
        resume_point(tmp_path, MADE_OF, {"processes": 1}, ALONE, True)
    assert json.loads((tmp_path / BEGUN).read_text()) == MADE_OF | {"processes": 2}
    (tmp_path / "ckpt").mkdir()
    with pytest.raises(UsageError, match="holds a run of our own engine"):
        resume_point(tmp_path, MADE_OF, {"processes": 2}, ALONE, True)


def test_a_run_of_fairseq2_without_a_whole_checkpoint_is_not_exported(tmp_path: Path, recordings: Path) -> None:
    config = config_file(tmp_path, recordings)
    (tmp_path / "run").mkdir()
    config.rename(tmp_path / "run/recipe.yaml")
    (tmp_path / "run" / BEGUN).write_text(json.dumps(MADE_OF))
    (tmp_path / "run/checkpoints/step_4").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="no complete checkpoint"):
        export_run(tmp_path / "run", tmp_path / "model")


def test_without_fairseq2_the_command_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fairseq2", None)
    with pytest.raises(MertError, match=r'fairseq2 is not installed; pip install -e "\.\[fairseq2\]"'):
        pretrain("nano", engine="fairseq2")


@pytest.mark.check
@needs_fairseq2
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_of_fairseq2_give_the_losses_of_two_of_ours(
    parallel: str, tmp_path: Path, recordings: Path
) -> None:
    config = config_file(tmp_path, recordings)
    options = (f"parallel={parallel}", "group_clips=1")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", "-m", "mert.cli"]
    child([*torchrun, "pretrain", str(config), *options, "steps=8", "--engine", "fairseq2"])
    pretrain_together([str(config), *options, f"out={tmp_path / 'ours'}"], 2)
    assert_same(rows(tmp_path / "run"), rows(tmp_path / "ours"))
    folders = (export_run(tmp_path / name, tmp_path / f"{name}_model") for name in ("run", "ours"))
    theirs, ours = (mert.load(folder, device="cpu").model.state_dict() for folder in folders)
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-5)
