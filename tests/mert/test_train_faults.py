"""Faults while a run saves, disks that fill up, and data no run should take."""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import torch.distributed.checkpoint as dcp
from harness import faulty
from harness.commands import run_mert
from harness.forks import FORKS
from harness.sounds import music

pytest.importorskip("yaml")
pytest.importorskip("tensorboard")
pytest.importorskip("matplotlib")

from harness.small_runs import ALONE, newest, rows, same_bits, same_end, small_recipe, write_recordings

from mert.cli.train import load_teachers
from mert.errors import AudioError, TrainingError, UsageError
from mert.files import temporary_key
from mert.train.checkpoints import MARKER, cause
from mert.train.corpus.opening import open_corpus
from mert.train.engine import Engine
from mert.train.recipe import read_recipe
from mert.train.tokenize import TokenizeOptions, tokenize
from teachers import TeacherError
from teachers.labels import shard_name
from teachers.random_projection import RandomProjectionTeacher

KEY = temporary_key(MARKER)

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled", "ignore:TypedStorage is deprecated")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recordings(tmp_path_factory.mktemp("corpus"))


def in_a_process(config: str, moment: str = "", until: int | None = None) -> int:
    """Train in a process of its own; its exit code, negative for a signal."""
    process = FORKS.Process(target=faulty.train, args=(config, moment, until))
    process.start()
    process.join(300)
    assert process.exitcode is not None
    return process.exitcode


def command(*arguments: str, moment: str = "") -> tuple[int, str]:
    """Exit code and stderr of `mert ARGUMENTS` with a fault; EOFError where it ends otherwise than by an exit code."""
    here, there = FORKS.Pipe(duplex=False)
    process = FORKS.Process(target=faulty.command, args=(list(arguments), moment, there))
    process.start()
    there.close()
    with here:
        answer: tuple[int, str] = here.recv()
    process.join()
    return answer


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, recordings: Path) -> Path:
    """A run without faults, with all its checkpoints."""
    folder = tmp_path_factory.mktemp("whole")
    assert in_a_process(small_recipe(folder, recordings, keep_checkpoints=9)) == 0
    assert [row["step"] for row in rows(folder / "run")] == [1, 2, 3, 4, 5, 6]
    return folder / "run"


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory, recordings: Path) -> Path:
    """A run of two steps, with a checkpoint."""
    folder = tmp_path_factory.mktemp("begun")
    assert in_a_process(small_recipe(folder, recordings), until=2) == 0
    return folder / "run"


@pytest.fixture
def again(tmp_path: Path, begun: Path, recordings: Path) -> Callable[[str], tuple[str, Path]]:
    """again("name") makes a copy of the run of two steps: its recipe and its folder."""

    def copy(name: str) -> tuple[str, Path]:
        config = small_recipe(tmp_path / name, recordings)
        shutil.copytree(begun, tmp_path / name / "run")
        return config, tmp_path / name / "run"

    return copy


@pytest.mark.parametrize(
    ("moment", "left"),
    [
        ("tensor:step_00000004:40", {"__0_0.distcp"}),  # in the middle of a shard
        pytest.param(f"change:{KEY}:2", {"__0_0.distcp", ".metadata", ".COMPLETE.json.tmp"}, marks=pytest.mark.check),
        pytest.param(  # complete; the older one is there yet
            "change:step_00000002:1", {"__0_0.distcp", ".metadata", MARKER}, marks=pytest.mark.check
        ),
    ],
)
def test_a_kill_during_a_save_costs_no_bit(
    moment: str, left: set[str], again: Callable[[str], tuple[str, Path]], whole: Path
) -> None:
    config, run = again("killed")
    assert in_a_process(config, moment, until=4) == -signal.SIGKILL
    found = {path.name for path in (run / "ckpt/step_00000004").iterdir()}
    assert {readable(name) for name in found} == left
    check_resume(config, run, whole)


@pytest.mark.check
def test_a_kill_before_any_change_a_save_makes_costs_no_bit(
    again: Callable[[str], tuple[str, Path]], whole: Path
) -> None:
    reached = []
    for number in count(1):
        config, run = again(str(number))
        code = in_a_process(config, f"change::{number}", until=4)
        if code == 0:  # the save makes fewer changes
            break
        assert code == -signal.SIGKILL
        reached.append((run / "killed").read_text() if (run / "killed").exists() else "within a folder")
        check_resume(config, run, whole)
    assert [readable(change) for change in reached] == [
        "os.mkdir step_00000004",
        "open __0_0.distcp",
        "open .metadata.tmp",
        "os.rename .metadata.tmp",
        "open .COMPLETE.json.tmp",
        "os.rename .COMPLETE.json.tmp",
        "os.remove COMPLETE.json",
        "shutil.rmtree step_00000002",
        "within a folder",
        "within a folder",
        "os.rmdir step_00000002",
    ]


def readable(name: str) -> str:
    """The name of a temporary file without the ids of machine and process."""
    return re.sub(rf"\.{KEY}\..*\.tmp", f".{MARKER}.tmp", name)


def check_resume(config: str, run: Path, whole: Path) -> None:
    """A resume takes a whole checkpoint, ends like a run without faults, and leaves nothing torn behind."""
    survivor = newest(run)
    assert same_bits(survivor, whole / "ckpt" / survivor.name)
    assert in_a_process(config) == 0
    assert same_end(run, whole)
    assert [path.name for path in (run / "ckpt").iterdir()] == ["step_00000006"]


def test_a_damaged_checkpoint_of_a_later_step_does_not_outlive_a_new_one(
    again: Callable[[str], tuple[str, Path]], whole: Path
) -> None:
    config, run = again("damaged")
    later = run / "ckpt/step_00000005"
    shutil.copytree(run / "ckpt/step_00000002", later)
    (later / "__0_0.distcp").write_bytes(b"")
    assert in_a_process(config, until=4) == 0
    assert [path.name for path in (run / "ckpt").iterdir()] == ["step_00000004"]
    check_resume(config, run, whole)


@pytest.mark.check
def test_a_save_the_disk_refuses_ends_the_run_and_costs_no_bit(
    again: Callable[[str], tuple[str, Path]], whole: Path
) -> None:
    config, run = again("limited")
    code, said = command("pretrain", config, moment="bytes:600000")
    assert code == 1
    folder = run / "ckpt/step_00000004"
    assert re.search(rf"error: {folder}: cannot be written \(.*too large\); check .* free space; ", said, re.I)
    assert not folder.exists()  # its space is free again
    check_resume(config, run, whole)


@pytest.mark.check
def test_a_row_the_disk_refuses_ends_the_run_and_costs_no_bit(
    again: Callable[[str], tuple[str, Path]], whole: Path
) -> None:
    config, run = again("limited")
    code, said = command("pretrain", config, moment="bytes:1700")  # more than recipe.yaml, less than six rows
    assert code == 1
    assert re.search(rf"error: {run}/metrics.jsonl: cannot be written \(.*too large\); .* free space", said, re.I)
    check_resume(config, run, whole)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MiB: room for one checkpoint."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {done.stderr}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_ends_the_run_and_costs_no_bit(disk: Path, recordings: Path, tmp_path: Path, whole: Path) -> None:
    config, run = small_recipe(tmp_path, recordings, out=str(disk / "run")), disk / "run"
    code, said = command("pretrain", config)
    assert code == 1
    assert f"error: {run}/ckpt/step_00000004: cannot be written (No space left on device); check" in said
    assert [path.name for path in (run / "ckpt").iterdir()] == ["step_00000002"]
    with open(disk / "more", "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    recipe = (run / "recipe.yaml").read_text()
    code, said = command("pretrain", config)
    assert code == 1
    assert f"error: {run}/metrics.jsonl: cannot be written (No space left on device); check" in said
    assert (run / "recipe.yaml").read_text() == recipe
    (disk / "more").unlink()
    subprocess.run(["mount", "-o", "remount,size=16m", disk], check=True)
    check_resume(config, run, whole)


def test_a_full_disk_is_named_behind_what_torch_says_of_its_file(disk: Path) -> None:
    tensors = {str(i): torch.zeros(50_000) for i in range(20)}  # twice what there is room for
    with pytest.raises(dcp.api.CheckpointException, match="enforce fail") as failed:
        dcp.save(tensors, checkpoint_id=disk / "checkpoint")
    assert cause(failed.value) == "No space left on device"


def made(config: str, *overrides: str) -> Engine:
    recipe = read_recipe(config, overrides)
    corpus = open_corpus(recipe.data, recipe.model.sample_rate, recipe.clip_samples, recipe.data_options)
    return Engine(recipe, corpus, load_teachers(recipe.teachers), ALONE)


def test_a_batch_of_one_clip_is_trained_on_as_it_is(tmp_path: Path, recordings: Path) -> None:
    config = small_recipe(tmp_path, recordings, batch_clips=1, group_clips=1, mixing={"apply_prob": 1.0})
    engine = made(config)
    undisturbed = made(config, "mixing.apply_prob=0").batches.group(1, 0).wave_BN
    assert torch.equal(engine.batches.group(1, 0).wave_BN, undisturbed)
    assert undisturbed.shape == (1, 12_000)
    assert engine.run() == 6
    assert all(np.isfinite(row["loss"]) and "skipped" not in row for row in rows(tmp_path / "run"))


@pytest.fixture
def spoiled(tmp_path: Path, recordings: Path) -> Path:
    """The recordings, and three that no clip can be cut from."""
    folder = tmp_path / "spoiled"
    shutil.copytree(recordings, folder)
    wave = music(1.0)
    soundfile.write(folder / "short.wav", wave[:4800], 24_000)
    wave[100] = np.nan
    soundfile.write(folder / "07_nan.wav", wave, 24_000, subtype="FLOAT")
    (folder / "torn.flac").write_bytes(b"fLaC")
    return folder


def test_recordings_that_cannot_be_used_are_dropped_by_name_with_a_count_and_change_nothing(
    tmp_path: Path, spoiled: Path, whole: Path
) -> None:
    (spoiled / "07_nan.wav").unlink()  # its header is good
    config = small_recipe(tmp_path, spoiled)
    code, said = command("pretrain", config)
    assert code == 0, said
    assert "dropped short.wav: 0.20 s are shorter than a clip of 0.50 s" in said
    assert "dropped 2 of 17 recordings" in said
    assert same_end(tmp_path / "run", whole)


def test_what_shows_only_when_a_clip_is_read_costs_that_clip(tmp_path: Path, spoiled: Path) -> None:
    soundfile.write(spoiled / "07_nan.wav", np.full(24_000, np.nan), 24_000, subtype="FLOAT")
    code, said = command("pretrain", small_recipe(tmp_path, spoiled, steps=12))
    assert code == 0, said
    assert re.search(r"dropped a clip: .*07_nan\.wav: sample \d+ \(0\.\d+ s\) is nan", said)
    assert len(rows(tmp_path / "run")) == 12


@pytest.mark.parametrize("error", [AudioError("00.wav", "is gone", "look for it"), RuntimeError("a bug")])
def test_a_step_that_fails_costs_no_step_before_it_and_no_bit(
    error: Exception, tmp_path: Path, recordings: Path, whole: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = small_recipe(tmp_path, recordings, checkpoint_every=100)
    engine = made(config)
    group = engine.batches.next_group

    def failing(step: int, number: int) -> Any:
        if (step, number) == (5, 1):
            raise error
        return group(step, number)

    engine.batches.next_group = failing  # type: ignore[method-assign]
    with pytest.raises(type(error), match=str(error)):
        engine.run()
    assert "step 5 failed; the run goes on after step 4" in caplog.text
    assert newest(tmp_path / "run").name == "step_00000004"
    check_resume(config, tmp_path / "run", whole)


def test_an_update_that_fails_midway_is_not_saved(tmp_path: Path, recordings: Path, whole: Path) -> None:
    engine = made(small_recipe(tmp_path, recordings))
    update = engine.optimizer.step

    def failing() -> None:
        update()
        if len(rows(tmp_path / "run")) == 3:
            raise RuntimeError("out of memory")

    engine.optimizer.step = failing  # type: ignore[assignment, method-assign]
    with pytest.raises(RuntimeError, match="out of memory"):
        engine.run()
    assert newest(tmp_path / "run").name == "step_00000002"
    check_resume(str(tmp_path / "recipe.yaml"), tmp_path / "run", whole)


def test_a_checkpoint_is_written_by_the_clock_too(
    tmp_path: Path, recordings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mert.train.engine.SAVE_S", 0.0)
    engine = made(small_recipe(tmp_path, recordings, checkpoint_every=100, keep_checkpoints=9))
    engine.run(until=3)
    assert [path.name[-1] for path in sorted((tmp_path / "run/ckpt").iterdir())] == ["1", "2", "3"]


def test_a_generator_of_clips_shorter_than_the_crop_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"clips of 0\.40 s are shorter than a clip to train on, 0\.50 s; lower clip_s"
    ):
        made(small_recipe(tmp_path, Path("synth"), data_options={"n_items": 4, "seconds": 0.4}))


Store = Callable[..., str]


@pytest.fixture
def store(tmp_path: Path, recordings: Path) -> Store:
    """store("name") tokenizes the recordings, or other data, by a teacher of a seed; it returns the store's folder."""
    pytest.importorskip("pyarrow")

    def make(name: str, data: Path | str = recordings, seed: int = 0, **options: Any) -> str:
        rate_hz = options.pop("sample_rate", 24_000)
        teacher = RandomProjectionTeacher.seeded(seed, n_codebooks=2, n_classes=32, sample_rate=rate_hz)
        teacher.save(tmp_path / name / "teacher")
        out = str(tmp_path / name / "store")
        list(tokenize(TokenizeOptions(str(data), str(tmp_path / name / "teacher"), out, options)))
        return out

    return make


def test_a_run_does_not_go_on_with_the_store_of_another_teacher(tmp_path: Path, recordings: Path, store: Store) -> None:
    config, one, other = small_recipe(tmp_path, recordings), store("one"), store("other", seed=1)
    assert made(config, f"teachers={one}").run(until=2) == 2
    with pytest.raises(TrainingError, match="step_00000002: it was trained with another teachers"):
        made(config, f"teachers={other}").run()
    assert made(config, f"teachers={one}").run(until=3) == 3


def test_a_store_of_another_rate_is_refused(tmp_path: Path, recordings: Path, store: Store) -> None:
    slow = store("slow", sample_rate=16_000)
    with pytest.raises(UsageError, match=r"works at 16000 Hz and 50 frames a second; the model needs 24000 Hz and 75"):
        made(small_recipe(tmp_path, recordings), f"teachers={slow}")


def test_a_store_of_another_corpus_is_refused_before_the_first_step(
    tmp_path: Path, recordings: Path, store: Store
) -> None:
    longer = tmp_path / "longer"
    shutil.copytree(recordings, longer)
    soundfile.write(longer / "14.wav", music(2.0), 24_000)
    own = store("own")
    with pytest.raises(TeacherError, match=r"14\.wav has 48000 samples, and had 40800 when its targets were made"):
        made(small_recipe(tmp_path / "a", longer), f"teachers={own}")
    (longer / "14.wav").rename(longer / "new.wav")
    with pytest.raises(TeacherError, match=r"has no targets of new\.wav; tokenize this corpus"):
        made(small_recipe(tmp_path / "a", longer), f"teachers={own}")
    synth = store("synth", "synth", n_items=3, seconds=1.0)
    options = {"n_items": 3, "seconds": 1.0}
    made(small_recipe(tmp_path / "b", Path("synth"), data_options=options), f"teachers={synth}")
    with pytest.raises(TeacherError, match=r"has no targets of [0-9a-f]{12}/0; tokenize this corpus"):
        made(small_recipe(tmp_path / "b", Path("synth"), data_options=options | {"seed": 1}), f"teachers={synth}")


def test_what_a_teacher_refuses_is_one_line_for_the_user(tmp_path: Path, recordings: Path, store: Store) -> None:
    folder = Path(store("one"))
    (folder / shard_name(0)).unlink()
    config = small_recipe(tmp_path, recordings)
    done = run_mert("pretrain", config, f"teachers={folder}")
    assert done.code == 1
    assert done.err.endswith(f"error: {folder / shard_name(0)}: is missing; run the same mert tokenize again\n")
