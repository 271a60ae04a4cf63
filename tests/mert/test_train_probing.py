"""Scores while a run trains: they change no bit of it, and stand in its metrics."""

from __future__ import annotations

import tomllib
from importlib import import_module
from pathlib import Path

import pytest
import torch
from harness.small_runs import ALONE, newest, rows, same_bits, small_recipe, write_recordings

pytest.importorskip("yaml")
pytest.importorskip("tensorboard")
pytest.importorskip("matplotlib")

from mert.cli.train import load_teachers
from mert.errors import UsageError
from mert.models.mert import Mert
from mert.train.corpus.opening import open_corpus
from mert.train.engine import Engine
from mert.train.probing import GROUP, open_monitor
from mert.train.recipe import read_recipe

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled", "ignore:TypedStorage is deprecated")
ROOT = Path(__file__).parents[2]


class Meddler:
    """A monitor that changes whatever it can reach, and scores by the weights."""

    def __init__(self, folder: Path, tasks: tuple[str, ...]) -> None:
        self.tasks = tasks

    def __call__(self, model: Mert) -> dict[str, float]:
        assert not model.training and not any(parameter.requires_grad for parameter in model.parameters())
        score = float(model.projection.linear.weight.detach().abs().sum())
        model.train()
        model(torch.randn(1, 2000))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
        torch.manual_seed(0)
        torch.set_num_threads(1 if torch.get_num_threads() > 1 else 2)
        return {task: score for task in self.tasks}


def register(folder: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """Have a package installed that registers a monitor."""
    about = folder / "meddler-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: meddler\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[{GROUP}]\nmeddler = {value}\n")
    monkeypatch.syspath_prepend(str(folder))


def run(config: str, *overrides: str) -> Path:
    recipe = read_recipe(config, overrides)
    corpus = open_corpus(recipe.data, recipe.model.sample_rate, recipe.clip_samples, {})
    Engine(recipe, corpus, load_teachers(recipe.teachers), ALONE).run()
    return Path(recipe.out)


def test_probes_change_no_bit_of_a_run_and_stand_in_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(tmp_path, monkeypatch, f"{__name__}:Meddler")
    (tmp_path / "music").mkdir()
    config = small_recipe(tmp_path, write_recordings(tmp_path / "music"))
    plain = run(config)
    probed = run(config, f"out={tmp_path / 'probed'}", "probe_every=2", "probe_tasks=a,b")
    assert same_bits(newest(plain), newest(probed))
    scored = rows(probed)
    found = [{name: row.pop(name) for name in list(row) if name.startswith("probe/")} for row in scored]
    assert scored == rows(plain)
    assert [list(scores) for scores in found] == [[], ["probe/a", "probe/b"]] * 3
    assert len({scores["probe/a"] for scores in found if scores}) == 3  # of the weights of their step


def test_probes_without_a_package_that_computes_them_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mert.train.probing.entry_points", lambda group: [])
    assert open_monitor(read_recipe("nano")) is None
    with pytest.raises(UsageError, match="probe_every=5: no installed package scores models; install mert-hub again"):
        open_monitor(read_recipe("nano", ["probe_every=5"]))


@pytest.mark.check
@pytest.mark.filterwarnings("ignore")
def test_the_suite_scores_weights_alike_whenever_it_is_asked(tmp_path: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    module, _, name = project["entry-points"][GROUP]["suite"].partition(":")
    from mert.weights.hub import load_weights

    with pytest.raises(UsageError, match="no task of clips gtzan_beats; give some of"):
        getattr(import_module(module), name)(tmp_path, ("gtzan_beats",))
    tasks = ("nsynth_pitch", "giantsteps_key")
    monitor = getattr(import_module(module), name)(tmp_path, tasks)
    model = load_weights("mert-nano", with_torch=True)[0]
    first = monitor(model)
    assert list(first) == list(tasks) and all(0 <= score <= 100 for score in first.values())
    assert monitor(model) == first
