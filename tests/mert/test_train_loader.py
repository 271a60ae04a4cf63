"""The loader: the same clips by any number of processes, and one clear line where one of them dies."""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from harness.forks import pretrain_together
from harness.small_runs import ALONE, rows, small_recipe, write_recordings
from harness.sounds import music

pytest.importorskip("yaml")
pytest.importorskip("tensorboard")
pytest.importorskip("datasets")

from mert.cli.train import load_teachers
from mert.errors import UsageError
from mert.train.corpus.base import CorpusError
from mert.train.corpus.opening import open_corpus
from mert.train.corpus.prepare import PrepareOptions, planned, prepare
from mert.train.draw import Draw
from mert.train.engine import Engine
from mert.train.loader import Clips, Loader, death_of_worker
from mert.train.recipe import Recipe, read_recipe

CPU = torch.device("cpu")
pytestmark = [
    pytest.mark.filterwarnings("ignore:torch.distributed is disabled", "ignore:TypedStorage is deprecated"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),  # more workers than cores
]


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recordings(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, recordings: Path) -> Path:
    out = tmp_path_factory.mktemp("prepared") / "store"
    options = PrepareOptions(str(recordings), str(out), 24_000)
    prepare(options, planned(options))
    return out


def opened(recipe: Recipe) -> Any:
    size = recipe.model.sample_rate, recipe.min_samples
    return open_corpus(recipe.data, *size, recipe.data_options, weights=recipe.data_weights)


def engine(config: str, *overrides: str) -> Engine:
    recipe = read_recipe(config, overrides)
    return Engine(recipe, opened(recipe), load_teachers(recipe.teachers), ALONE)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, recordings: Path) -> list[dict[str, Any]]:
    """The rows of a run from the folder, read by a thread."""
    folder = tmp_path_factory.mktemp("whole")
    engine(small_recipe(folder, recordings), "loader_workers=0", "model.layer_drop=0").run()
    return rows(folder / "run")


@pytest.mark.parametrize(("source", "workers"), [("store", 0), ("folder", 1), ("store", 3)])
def test_a_run_has_the_same_bits_from_a_folder_and_its_store_with_any_workers(
    source: str, workers: int, tmp_path: Path, recordings: Path, store: Path, whole: list[dict[str, Any]]
) -> None:
    config = small_recipe(tmp_path, store if source == "store" else recordings)
    trained = engine(config, f"loader_workers={workers}", "model.layer_drop=0")
    trained.run()
    trained.batches.close()
    assert rows(tmp_path / "run") == whole


@pytest.mark.check
def test_two_processes_with_workers_have_the_bits_of_two_without(tmp_path: Path, recordings: Path, store: Path) -> None:
    for name, data, workers in (("plain", recordings, 0), ("workers", store, 2)):
        config = small_recipe(tmp_path / name, data, batch_clips=8, group_clips=2)
        pretrain_together([config, f"loader_workers={workers}"], 2)
    assert rows(tmp_path / "plain/run") == rows(tmp_path / "workers/run")


def test_a_worker_that_is_killed_ends_the_run_in_one_line_and_costs_no_bit(
    tmp_path: Path, recordings: Path, whole: list[dict[str, Any]]
) -> None:
    config = small_recipe(tmp_path, recordings, checkpoint_every=1)
    settings = "loader_workers=1", "model.layer_drop=0"
    trained = engine(config, *settings)
    honest = trained.step

    def step(number: int) -> dict[str, Any]:
        if number == 3:
            (worker,) = trained.batches.loader._coming._workers  # type: ignore[union-attr]
            os.kill(worker.pid, signal.SIGKILL)
        return honest(number)

    trained.step = step  # type: ignore[method-assign]
    with pytest.raises(
        CorpusError, match=r"a process that reads clips: died .* lower loader_workers; the same command"
    ):
        trained.run()
    engine(config, *settings).run()
    assert rows(tmp_path / "run") == whole


def test_a_full_shared_memory_and_a_cut_connection_are_one_line() -> None:
    """torch says so in two ways, by where the write fails."""
    killed = RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that ...")
    refused = RuntimeError("unable to allocate shared memory(shm) for file </torch_7_8>: No space left on device (28)")
    for error in (killed, refused):
        assert str(death_of_worker(error)).startswith(
            "/dev/shm: is too small for the clips that are read ahead; enlarge"
        )
    for error in (ConnectionResetError(104, "Connection reset by peer"), EOFError()):
        assert "died (killed, or out of memory)" in str(death_of_worker(error))
    bug = RuntimeError("Caught KeyError in DataLoader worker process 0.")
    assert death_of_worker(bug) is bug


def test_a_recording_that_cannot_be_read_costs_a_clip_and_a_line(
    tmp_path: Path, recordings: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "music"
    folder.mkdir()
    for path in recordings.iterdir():
        os.link(path, folder / path.name)
    wave = music(2.0)
    wave[12_000:36_000] = np.nan
    soundfile.write(folder / "nan.wav", wave, 24_000, subtype="FLOAT")
    config = small_recipe(tmp_path, folder, steps=12, warmup_steps=2)
    with caplog.at_level(logging.WARNING, "mert"):
        trained = engine(config, "loader_workers=0")
        trained.run()
    lines = [line for line in caplog.messages if line.startswith("dropped a clip")]
    assert lines and all("nan.wav" in line for line in lines) and len(set(lines)) == len(lines)
    again = engine(config, "loader_workers=0", f"out={tmp_path / 'again'}")
    again.run()
    assert rows(tmp_path / "again") == rows(tmp_path / "run") and len(rows(tmp_path / "run")) == 12


def test_replaced_clips_do_not_change_their_neighbours(tmp_path: Path, recordings: Path) -> None:
    recipe = read_recipe(small_recipe(tmp_path, recordings))
    corpus = opened(recipe)
    draw = Draw(recipe, corpus)
    good = Clips(corpus, draw)[(2, 1)]
    gone = good.recordings[1]  # type: ignore[union-attr]
    honest = corpus.read

    def read(index: int, start: int, n_samples: int) -> np.ndarray:
        from mert.errors import AudioError

        if index == gone:
            raise AudioError(corpus.name(index), "is gone", "bring it back")
        return honest(index, start, n_samples)

    corpus.read = read
    replaced = Clips(corpus, draw)[(2, 1)]
    assert len(replaced.problems) >= 1 and gone not in replaced.recordings  # type: ignore[union-attr]
    same = [i for i, index in enumerate(good.recordings) if index != gone]  # type: ignore[union-attr]
    assert all(torch.equal(replaced.wave_BN[i], good.wave_BN[i]) for i in same)  # type: ignore[union-attr]


def test_a_corpus_of_which_nothing_can_be_read_ends_the_run(tmp_path: Path, recordings: Path) -> None:
    folder = tmp_path / "music"
    folder.mkdir()
    for path in recordings.iterdir():
        os.link(path, folder / path.name)
    trained = engine(small_recipe(tmp_path, folder), "loader_workers=0")
    for path in folder.iterdir():
        path.unlink()
    with pytest.raises(CorpusError, match=r"step 1: 20 recordings could not be read; .*no such file any more"):
        trained.step(1)


def test_groups_may_be_asked_for_out_of_order(tmp_path: Path, recordings: Path) -> None:
    recipe = read_recipe(small_recipe(tmp_path, recordings))
    clips = Clips(corpus := opened(recipe), Draw(recipe, corpus))
    loader = Loader(clips, range(2), recipe.steps, 1, CPU)
    for key in [(1, 0), (1, 1), (2, 0), (5, 1), (6, 0), (2, 0)]:
        assert torch.equal(loader.next(*key).wave_BN, clips[key].wave_BN)  # type: ignore[union-attr]
    loader.close()


def test_recordings_shorter_than_a_clip_shorten_their_group(tmp_path: Path, recordings: Path) -> None:
    config = small_recipe(tmp_path, recordings, clip_s=1.2, min_clip_s=0.5, validate_clips=0)
    trained = engine(config, "loader_workers=0")
    lengths = trained.batches.corpus.lengths
    seen = set()
    for step in range(1, 5):
        for number in range(2):
            cut, group = trained.batches.draw.cut(step, number), trained.batches.group(step, number)
            n = min(28_800, int(lengths[list(cut.recordings)].min()))
            assert group.wave_BN.shape == (3, n) and group.mask_BT.shape[1] == (n - 400) // 320 + 1
            assert trained.batches.counts(step, number) == (group.n_masked, group.mask_BT.numel())
            seen.add(n)
    assert len(seen) > 2 and trained.run() == 6


def test_a_pattern_names_the_held_out_recordings(tmp_path: Path, recordings: Path) -> None:
    trained = engine(small_recipe(tmp_path, recordings), "validate_on=0[3-5]*", "validate_clips=2")
    draw, name = trained.batches.draw, trained.batches.corpus.name
    training = {name(i) for i in draw.training}
    assert training == {f"{i:02d}.wav" for i in range(15) if i not in (3, 4, 5)}
    assert len(draw.held_out) == 2 and not training & {name(i) for i in draw.held_out}
    with pytest.raises(UsageError, match=r"validate_on=\[01\]\*: matches 15 of the 15 names, such as 00\.wav"):
        engine(small_recipe(tmp_path, recordings), "validate_on=[01]*")


def test_a_recording_stays_on_its_side_when_the_corpus_grows(tmp_path: Path, recordings: Path) -> None:
    class Named:
        def __init__(self, names: list[str]) -> None:
            self.names, self.lengths = names, np.full(len(names), 24_000)

        def __len__(self) -> int:
            return len(self.names)

        def name(self, index: int) -> str:
            return self.names[index]

    recipe = read_recipe(small_recipe(tmp_path, recordings), ["validate_clips=1000", "validate_share=0.1"])
    small, large = Named([f"{i}.wav" for i in range(300)]), Named([f"{i}.wav" for i in range(3000)])
    before, after = ({corpus.name(i) for i in Draw(recipe, corpus).held_out} for corpus in (small, large))  # type: ignore[arg-type]
    assert len(before) == 30 and len(after) == 300
    assert len(before & after) >= 20  # the threshold moves a little, a new draw would share 3


def test_a_mixture_draws_by_its_weights_and_each_part_in_its_own_epochs(tmp_path: Path, recordings: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for i in range(4):
        soundfile.write(other / f"o{i}.wav", music(1.0, seed=50 + i), 24_000)
    both = Path(f"{recordings},{other}")
    recipe = read_recipe(small_recipe(tmp_path, both, data_weights=[1, 3], validate_clips=0))
    corpus = opened(recipe)
    draw = Draw(recipe, corpus)
    drawn = [i for step in range(1, 121) for number in range(2) for i in draw.cut(step, number).recordings]
    of_other = [i for i in drawn if i >= 15]
    assert abs(len(of_other) / len(drawn) - 0.75) < 0.02
    of_first = [i for i in drawn if i < 15]
    assert sorted(of_first[:15]) == list(range(15))  # an epoch of the first part
    assert np.bincount(of_other)[15:].std() < 8
    assert draw.cut(7, 1) == Draw(recipe, corpus).cut(7, 1)
