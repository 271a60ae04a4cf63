"""The history of a run: it goes on as it began, unless asked otherwise, and its folder says what changed and when."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from harness.commands import run_mert

pytest.importorskip("yaml")
pytest.importorskip("tensorboard")
pytest.importorskip("matplotlib")

import yaml
from harness.small_runs import ALONE, rows, small_recipe, write_recordings

from mert.cli.train import load_teachers
from mert.errors import UsageError
from mert.files import read_rows
from mert.train.corpus.opening import open_corpus
from mert.train.corpus.recordings import INDEX
from mert.train.engine import Engine
from mert.train.history import CHANGES, RECIPE, STARTS, begun_recipe, flat
from mert.train.recipe import Recipe, read_recipe
from mert.train.resume import FREE, changes_after
from mert.train.start import read_plan

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled", "ignore:TypedStorage is deprecated")


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recordings(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory, recordings: Path) -> str:
    """The recipe of a run of two steps, saved."""
    config = small_recipe(tmp_path_factory.mktemp("begun"), recordings)
    train(config, until=2)
    return config


def train(config: str, *overrides: str, until: int | None = None, allow_changes: bool = False) -> int:
    recipe, start = read_plan(config, overrides)
    corpus = open_corpus(recipe.data, recipe.model.sample_rate, recipe.clip_samples, {})
    engine = Engine(recipe, corpus, load_teachers(recipe.teachers), ALONE, start)
    return engine.run(until=until, allow_changes=allow_changes)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("lr=1e-3", r"lr=0\.001 \(was 0\.002\)"),
        ("seed=8", r"seed=8 \(was 7\)"),
        ("mask_probability=0.5", r"mask_probability=0\.5 \(was 0\.8\)"),
        ("batch_clips=3", r"batch_clips=3 \(was 6\)"),
        ("clip_s=0.4", r"clip_s=0\.4 \(was 0\.5\)"),
        ("mixing.apply_prob=0", r"mixing\.apply_prob=0\.0 \(was 0\.5\)"),
        ("weights.codes=2", r"weights\.codes=2\.0 \(was 1\.0\)"),
        ("dtype=bfloat16", r"dtype=bfloat16 \(was float32\)"),
        ("model.ffn_dim=32", r"model\.ffn_dim=32 \(was 64\)"),
        ("extra_classes=4", r"extra_classes=4 \(was 0\)"),
        ("steps=5", r"steps=5 \(was 6\)"),
        ("validate_clips=3", r"validate_clips=3 \(was 2\)"),
    ],
)
def test_a_change_that_affects_results_is_refused_in_one_line_with_both_values(
    override: str, message: str, begun: str
) -> None:
    recipe = read_recipe(begun, [override])
    run = Path(recipe.out)
    with pytest.raises(UsageError, match=rf"run: the run began otherwise: {message}; go on with its recipe") as refused:
        changes_after(run, 2, recipe, allowed=False)
    assert "\n" not in str(refused.value)
    (change,) = changes_after(run, 2, recipe, allowed=True)
    assert change.key == override.partition("=")[0] and change.step == 2


def contents(run: Path) -> dict[str, bytes]:
    """The files of a run, but for the index of its corpus."""
    return {path.name: path.read_bytes() for path in run.iterdir() if path.is_file() and INDEX not in path.name}


def test_the_command_refuses_a_change_and_leaves_the_run_as_it_is(begun: str) -> None:
    run = Path(begun).parent / "run"
    before = contents(run)
    done = run_mert("pretrain", begun, "lr=1e-3", "seed=8")
    assert done.code == 2
    assert "error: " + str(run) + ": the run began otherwise: seed=8 (was 7), lr=0.001 (was 0.002); go on" in done.err
    assert before == contents(run)


def test_every_free_key_can_change_and_is_a_key() -> None:
    known = {name.partition(".")[0] for name in flat(Recipe().to_dict())} | {"data_options"}
    assert known >= FREE


def test_more_steps_are_taken_with_the_warm_up_of_the_first_and_other_changes_on_request(
    tmp_path: Path, recordings: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = small_recipe(tmp_path, recordings)
    values = yaml.safe_load(Path(config).read_text())
    del values["warmup_steps"], values["steps"]
    Path(config).write_text(json.dumps(values))
    assert train(config, "steps=20", until=2) == 2
    first = (tmp_path / "run" / RECIPE).read_text()
    assert train(config, "steps=40", "checkpoint_every=1", "keep_checkpoints=5", until=3) == 3
    assert train(config, "steps=40", "lr=1e-3", until=4, allow_changes=True) == 4
    assert "from now on lr=0.001 (was 0.002)" in caplog.text
    assert (tmp_path / "run" / RECIPE).read_text() == first
    found = [tuple(row.values()) for row in read_rows(tmp_path / "run" / CHANGES)]
    assert found == [(2, "steps", 20, 40), (3, "lr", 0.002, 0.001)]
    recipe = begun_recipe(tmp_path / "run")
    assert recipe and (recipe.steps, recipe.lr, recipe.warmup_steps) == (40, 0.001, 2)
    assert [row["lr"] for row in rows(tmp_path / "run")] == [
        0.001, 0.002, pytest.approx(0.002 * 37 / 38), pytest.approx(0.001 * 36 / 38),
    ]  # fmt: skip
    with pytest.raises(UsageError, match=r"lr=0\.002 \(was 0\.001\)"):
        train(config, "steps=40")
    done = run_mert("export", tmp_path / "run", tmp_path / "model")
    assert done.code == 0, done.err
    card = (tmp_path / "model/README.md").read_text()
    assert "4 of 40 steps" in card and "after step 3 lr=0.001 (was 0.002)" in card
    assert (tmp_path / "model" / CHANGES).exists()


def test_a_change_of_steps_that_are_done_again_is_forgotten(tmp_path: Path, recordings: Path) -> None:
    config = small_recipe(tmp_path, recordings, checkpoint_every=100)
    train(config, "checkpoint_every=2", until=2)
    train(config, "lr=1e-3", until=3, allow_changes=True)  # no checkpoint of it
    assert train(config, until=5) == 5
    assert read_rows(tmp_path / "run" / CHANGES) == []


def test_every_start_is_recorded_without_secrets(
    tmp_path: Path, recordings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_recipe(tmp_path, recordings, data_options={"token": "hf_abc"})
    words = ["mert", "pretrain", str(Path.home() / "r.yaml"), "data_options.token=hf_abc"]
    monkeypatch.setattr(sys, "argv", words)
    train(config, until=2)
    train(config, until=3)
    starts = read_rows(tmp_path / "run" / STARTS)
    assert [row["step"] for row in starts] == [0, 2]
    assert starts[0]["command"] == ["mert", "pretrain", "~/r.yaml", "data_options.token=REMOVED"]
    assert {"date", "mert-hub", "torch", "python", "processes", "device", "threads", "system"} <= starts[0].keys()
    assert all(
        "hf_abc" not in path.read_text() for path in (tmp_path / "run").iterdir() if path.suffix in (".yaml", ".jsonl")
    )


def test_a_weight_of_a_teacher_that_was_left_out_stays_so(recordings: Path, tmp_path: Path) -> None:
    """Its new value is null in the history, from which the run is resumed, exported and adapted."""
    config = small_recipe(tmp_path, recordings)
    train(config, "weights.teachers.random_projection=2", until=2)
    train(config, until=4, allow_changes=True)
    now, before = begun_recipe(tmp_path / "run"), begun_recipe(tmp_path / "run", 2)
    assert now is not None and now.weights.teachers == {}
    assert before is not None and before.weights.teachers == {"random_projection": 2.0}
    assert train(config, until=5) == 5
