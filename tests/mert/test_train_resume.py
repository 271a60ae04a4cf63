"""Many processes, some of which are killed: torchrun starts them again, and no bit is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from harness import faulty
from harness.forks import free_port, pretrain_together

pytest.importorskip("yaml")
pytest.importorskip("tensorboard")
pytest.importorskip("matplotlib")

from harness.small_runs import same_end, small_recipe, write_recordings

from mert.files import temporary_key
from mert.train.checkpoints import MARKER

pytestmark = [
    pytest.mark.check,
    pytest.mark.filterwarnings("ignore:torch.distributed is disabled", "ignore:TypedStorage is deprecated"),
]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
# Else an agent that comes back waits for an address that the others gave before (pytorch issue 135712).
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
STEPS = 24  # of the run on two machines: long enough to be killed on the way


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recordings(tmp_path_factory.mktemp("corpus"))


def two_processes(moment: str, rank: int, config: str, *overrides: str) -> str:
    """What `mert pretrain` says in two processes, one of which meets a fault; torchrun may start them again once."""
    options = ["--standalone", "--nproc-per-node=2", "--max-restarts=1", faulty.__file__, moment, str(rank)]
    line = [*TORCHRUN, *options, "pretrain", config, *overrides]
    done = subprocess.run(line, capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, recordings: Path) -> dict[str, Path]:
    """Runs of two processes without faults; every batch has two groups for each."""
    runs = {}
    for parallel in ("ddp", "fsdp"):
        folder = tmp_path_factory.mktemp(parallel)
        config = small_recipe(folder, recordings, batch_clips=8, group_clips=2, parallel=parallel)
        pretrain_together([config], 2)
        runs[parallel] = folder / "run"
    return runs


@pytest.mark.parametrize(
    ("parallel", "moment", "rank", "after", "workers"),
    [
        ("ddp", "group:5:3", 1, 4, 2),  # between the groups of an update that crosses the border of an epoch
        ("fsdp", "tensor:step_00000004:20", 1, 2, 0),  # one of two shards is cut off
        ("ddp", f"change:step_00000004/.{temporary_key(MARKER)}:2", 0, 2, 0),  # all is written but the marker
    ],
)
def test_a_killed_process_is_started_again_and_no_bit_is_lost(
    parallel: str,
    moment: str,
    rank: int,
    after: int,
    workers: int,
    tmp_path: Path,
    recordings: Path,
    whole: dict[str, Path],
) -> None:
    config = small_recipe(tmp_path, recordings, batch_clips=8, group_clips=2, parallel=parallel)
    said = two_processes(moment, rank, config, f"loader_workers={workers}")
    assert f"going on after step {after} from" in said
    assert same_end(tmp_path / "run", whole[parallel])


def test_an_error_in_one_process_ends_all_and_costs_no_bit(
    tmp_path: Path, recordings: Path, whole: dict[str, Path]
) -> None:
    """The other one waits for its gradients, and would wait for ever."""
    config = small_recipe(tmp_path, recordings, batch_clips=8, group_clips=2, loader_workers=2)
    options = ["--standalone", "--nproc-per-node=2"]
    broken = [faulty.__file__, "error:5:3", "1"]
    done = subprocess.run(
        [*TORCHRUN, *options, *broken, "pretrain", config], capture_output=True, text=True, env=ENVIRONMENT, timeout=120
    )
    assert done.returncode and "error: the GPU: ran out of memory; lower clips_at_once" in done.stderr, done.stderr
    assert "step 5 failed; the run goes on after step 4" in done.stderr
    again = subprocess.run(
        [*TORCHRUN, *options, "-m", "mert.cli", "pretrain", config], capture_output=True, text=True, env=ENVIRONMENT
    )
    assert "going on after step 4 from" in again.stderr
    assert same_end(tmp_path / "run", whole["ddp"])


def test_a_kill_of_all_processes_and_their_workers_costs_no_bit(tmp_path: Path, recordings: Path) -> None:
    settings = {"steps": STEPS, "checkpoint_every": 4, "batch_clips": 8, "group_clips": 2, "validate_every": STEPS}
    pretrain_together([small_recipe(tmp_path / "whole", recordings, loader_workers=0, **settings)], 2)
    config, run = small_recipe(tmp_path, recordings, loader_workers=2, **settings), tmp_path / "run"
    line = [*TORCHRUN, "--standalone", "--nproc-per-node=2", "-m", "mert.cli", "pretrain", config]
    with subprocess.Popen(line, env=ENVIRONMENT, stderr=subprocess.DEVNULL) as agent:
        wait_for_rows(run, 6, [agent])
        family = descendants(agent.pid)
        assert len(family) >= 1 + 2 + 2 * 2  # the agent, two that train, and the workers of each
        for pid in family:
            with suppress(ProcessLookupError):  # it ended with its parent
                os.kill(pid, signal.SIGKILL)
    done = subprocess.run(line, capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0 and "going on after step" in done.stderr, done.stderr
    assert same_end(run, tmp_path / "whole/run")


def descendants(process: int) -> list[int]:
    """A process and all that it began, parents first."""
    return [process, *(pid for child in children(process) for pid in descendants(child))]


def children(process: int) -> list[int]:
    table = subprocess.run(["ps", "-axo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    return [int(pid) for pid, parent in map(str.split, table.splitlines()) if int(parent) == process]


def wait_for_rows(run: Path, n: int, agents: list[subprocess.Popen[str]]) -> None:
    deadline = time.monotonic() + 180
    while not (run / "metrics.jsonl").exists() or len((run / "metrics.jsonl").read_text().splitlines()) < n:
        assert time.monotonic() < deadline
        assert all(agent.poll() is None for agent in agents)
        time.sleep(0.05)


def test_of_two_machines_one_is_killed_and_started_again(tmp_path: Path, recordings: Path) -> None:
    settings = {"steps": STEPS, "checkpoint_every": 4, "batch_clips": 8, "group_clips": 2, "validate_every": STEPS}
    pretrain_together([small_recipe(tmp_path / "whole", recordings, **settings)], 2)
    config, run = small_recipe(tmp_path, recordings, **settings), tmp_path / "run"
    meeting = ["--rdzv-backend=c10d", f"--rdzv-endpoint=localhost:{free_port()}", "--rdzv-id=mert"]
    options = ["--nnodes=2", "--nproc-per-node=1", "--max-restarts=3", *meeting, "-m", "mert.cli", "pretrain", config]
    with ExitStack() as stack:

        def machine(name: str) -> subprocess.Popen[str]:
            log = stack.enter_context(open(tmp_path / f"{name}.log", "w"))
            agent = subprocess.Popen([*TORCHRUN, *options], env=ENVIRONMENT, stdout=log, stderr=log, text=True)
            stack.callback(agent.kill)
            return agent

        first = machine("first")
        time.sleep(1)  # the first one there hosts the meeting
        second = machine("second")
        wait_for_rows(run, 6, [first, second])
        for pid in [second.pid, *children(second.pid)]:
            os.kill(pid, signal.SIGKILL)
        assert second.wait(10) == -signal.SIGKILL
        second = machine("second again")
        said = {agent: agent.wait(180) for agent in (first, second)}
    logs = "\n".join(path.read_text() for path in tmp_path.glob("*.log"))
    assert set(said.values()) == {0}, logs
    assert "going on after step" in logs
    assert same_end(run, tmp_path / "whole/run")
