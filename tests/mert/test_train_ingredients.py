"""What a run is made of: kept in checkpoints, compared at a resume, and binding for each model that comes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from harness.commands import run_mert
from harness.sounds import tiny_embedder

pytest.importorskip("yaml")
pytest.importorskip("tensorboard")
pytest.importorskip("matplotlib")

from harness.small_runs import ALONE, newest, small_recipe, write_recordings

import mert
from mert.errors import TrainingError, UsageError
from mert.files import read_json, write_json
from mert.train.checkpoints import MARKER
from mert.train.corpus.base import Corpus
from mert.train.corpus.opening import open_corpus
from mert.train.engine import Engine
from mert.train.ingredients import facts, keyed, licences_of
from mert.train.run_folder import export_run
from mert.train.start import read_plan
from mert.weights.publish import save_pretrained
from teachers import load_teacher
from teachers.random_projection import RandomProjectionTeacher

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled", "ignore:TypedStorage is deprecated")
NON_COMMERCIAL = "cc-by-nc-4.0"


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recordings(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Two models of other weights: one not for commercial use, one free."""
    folder = tmp_path_factory.mktemp("bases")
    for seed, (name, licence) in enumerate({"restricted": NON_COMMERCIAL, "free": "apache-2.0"}.items()):
        save_pretrained(tiny_embedder(seed), folder / name, licence)
    return {name: str(folder / name) for name in ("restricted", "free")}


def engine(config: str, *overrides: str, corpus: Corpus | None = None) -> Engine:
    recipe, start = read_plan(config, overrides)
    corpus = corpus or open_corpus(recipe.data, recipe.model.sample_rate, recipe.clip_samples, {})
    return Engine(recipe, corpus, keyed(map(load_teacher, recipe.teachers)), ALONE, start)


def on_from(folder: Path, recordings: Path, init: str, **changes: Any) -> str:
    """A small recipe that goes on from weights, whose model it therefore does not state."""
    path = Path(small_recipe(folder, recordings, init=init, **changes))
    path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key != "model"}))
    return str(path)


def card_of(folder: Path) -> tuple[str, str]:
    info = mert.load(folder, device="cpu").info
    return info.licence, info.note


def test_a_model_that_goes_on_from_restricted_weights_stays_restricted_in_every_form(
    tmp_path: Path, recordings: Path, bases: dict[str, str]
) -> None:
    engine(on_from(tmp_path, recordings, bases["restricted"])).run(until=2)
    base = read_json(newest(tmp_path / "run") / MARKER)["state"]["base"]
    assert base == {
        "name": "restricted", "sha256": mert.load(bases["restricted"]).info.sha256, "licence": NON_COMMERCIAL,
        "revision": None,
    }  # fmt: skip
    for line in (
        ["export", tmp_path / "run", tmp_path / "model"],
        ["convert", tmp_path / "model", tmp_path / "converted"],
        ["export", tmp_path / "model", tmp_path / "hubert"],
        ["export", tmp_path / "hubert", tmp_path / "card", "--to", "fairseq2"],
        ["export", tmp_path / "card", tmp_path / "half", "--half"],
    ):
        assert run_mert(*line).code == 0
        licence, note = card_of(line[2])
        assert licence == NON_COMMERCIAL, line
        assert "it went on from restricted (sha256 " in note and f"bound by base restricted ({NON_COMMERCIAL})" in note
    for form in ("model", "hubert", "half"):
        assert mert.verify(tmp_path / form).golden is not None
    # a run on from a run, and from its model
    for name, init in (("of_run", tmp_path / "run"), ("of_model", tmp_path / "hubert")):
        engine(on_from(tmp_path / name, recordings, str(init))).run(until=2)
        assert card_of(export_run(tmp_path / name / "run", tmp_path / name / "model"))[0] == NON_COMMERCIAL


def test_a_run_does_not_go_on_from_another_base(tmp_path: Path, recordings: Path, bases: dict[str, str]) -> None:
    config = on_from(tmp_path, recordings, bases["restricted"])
    engine(config).run(until=2)
    with pytest.raises(TrainingError, match=r"went on from restricted \(sha256 .*\), not from free \(sha256 "):
        engine(config, f"init={bases['free']}").run()
    with pytest.raises(
        TrainingError, match=r"went on from restricted \(sha256 .*\), not from random weights; give the"
    ):
        engine(small_recipe(tmp_path / "plain", recordings, out=str(tmp_path / "run"))).run()
    moved = tmp_path / "moved"
    Path(bases["restricted"]).rename(moved)
    assert engine(config, f"init={moved}").run(until=3) == 3  # the same weights in another place
    moved.rename(bases["restricted"])


def test_the_data_bind_a_model_too_and_a_resume_forgets_no_licence(tmp_path: Path, recordings: Path) -> None:
    recipe, _ = read_plan(small_recipe(tmp_path, recordings))
    corpus: Any = open_corpus(recipe.data, 24_000, recipe.clip_samples, {})
    for licences in (["CC BY 4.0", "CC BY-SA 4.0"], ["CC BY 4.0", "odd words"], []):
        corpus.licences = licences
        trained = engine(small_recipe(tmp_path, recordings), corpus=corpus)
        trained.run(until=2 if licences[1:] == ["CC BY-SA 4.0"] else 4)
    licence, note = card_of(export_run(tmp_path / "run", tmp_path / "model"))
    assert licence == "cc-by-sa-4.0"
    assert "bound by data (CC BY-SA 4.0), data (odd words)" in note


def test_a_checkpoint_from_before_bases_were_recorded_goes_on(tmp_path: Path, recordings: Path) -> None:
    config = small_recipe(tmp_path, recordings)
    engine(config).run(until=2)
    marker = newest(tmp_path / "run") / MARKER
    old = read_json(marker)
    for name in ("base", "data_licences"):
        del old["state"][name]
    write_json(marker, old)
    assert card_of(export_run(tmp_path / "run", tmp_path / "model"))[0] == "apache-2.0"
    assert engine(config).run() == 6


def test_two_teachers_of_one_kind_have_heads_of_their_own(tmp_path: Path, recordings: Path) -> None:
    pair = [RandomProjectionTeacher.seeded(seed, n_codebooks=1, n_classes=16) for seed in (0, 1)]
    for seed, teacher in enumerate(pair):
        teacher.save(tmp_path / f"t{seed}")
    names = [str(tmp_path / "t0"), "cqt", str(tmp_path / "t1")]
    trained = engine(small_recipe(tmp_path, recordings, teachers=names))
    second = f"random_projection-{pair[1].fingerprint[:6]}"
    assert list(trained.batches.teachers) == ["random_projection", "cqt", second]
    row = trained.step(1)
    assert {f"{name}/loss_0" for name in ("random_projection", second)} < row.keys()
    assert trained.run(until=2) == 2
    assert engine(small_recipe(tmp_path, recordings, teachers=names)).run(until=3) == 3
    with pytest.raises(UsageError, match="names random_projection twice"):
        keyed([pair[0], pair[0]])


def test_facts_name_everything_a_licence_comes_from() -> None:
    class Empty:
        rate_hz, fingerprint, licences = 24_000, "f", ("CC0",)

    teachers = {"cqt": load_teacher("cqt")}
    base = {"name": "m", "sha256": "0" * 64, "licence": "unknown", "revision": None}
    made_of = facts(Empty(), teachers, base)  # type: ignore[arg-type]
    assert licences_of(made_of) == [("base m", "unknown"), ("teacher cqt", "Apache-2.0"), ("data", "CC0")]
