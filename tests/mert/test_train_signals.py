"""Signals while a run trains: no thread that computes takes one, each asks for an end, and nothing is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from harness.commands import Started

pytest.importorskip("yaml")
pytest.importorskip("tensorboard")
pytest.importorskip("matplotlib")

from harness.small_runs import newest, small_recipe, write_recordings

from mert.train import signals
from mert.train.signals import StopRequest, undisturbed

TASKS = Path("/proc/self/task")


def blocked() -> dict[str, int]:
    """The mask of blocked signals of each thread of this process."""
    status = {task.name: (task / "status").read_text() for task in TASKS.iterdir()}
    return {name: int(text.partition("SigBlk:")[2].split()[0], 16) for name, text in status.items()}


def after(seconds: float, *numbers: int) -> None:
    """Send this process signals, one after the other."""

    def send() -> None:
        for number in numbers:
            time.sleep(seconds)
            os.kill(os.getpid(), number)

    threading.Thread(target=send, daemon=True).start()


@pytest.mark.skipif(not TASKS.is_dir(), reason="only Linux shows the signals that a thread blocks")
def test_threads_that_compute_block_signals_and_those_from_before_do_not_compute() -> None:
    threads, earlier = torch.get_num_threads(), set(blocked())  # of other tests, too
    torch.set_num_threads(2)
    wave = torch.randn(2, 64, 4000, requires_grad=True)
    convolution = torch.nn.Conv1d(64, 64, 128, groups=4)
    convolution(wave).sum().backward()  # starts a pool that blocks nothing
    before = blocked()

    def work() -> dict[str, int]:
        convolution(wave).sum().backward()
        return blocked()

    during = undisturbed(work, StopRequest())
    torch.set_num_threads(threads)
    new = {name: mask for name, mask in during.items() if name not in before}
    assert len(new) >= 2  # the one that trains, and its pool
    for number in signals.STOPS:
        assert all(mask >> (number - 1) & 1 for mask in new.values())
        assert not any(before[name] >> (number - 1) & 1 for name in before if name not in earlier)
    assert not any(mask >> (signal.SIGSEGV - 1) & 1 for mask in new.values())


@pytest.mark.parametrize("number", signals.STOPS)
def test_a_signal_asks_for_an_end_and_its_handler_is_put_back(number: signal.Signals) -> None:
    stop, handler = StopRequest(), signal.getsignal(number)

    def work() -> str:
        after(0.01, number)
        while not stop.asked:
            time.sleep(0.01)
        return "ended"

    assert undisturbed(work, stop) == "ended"
    assert stop.interrupted is (number == signal.SIGINT)
    assert signal.getsignal(number) is handler


def test_a_second_ctrl_c_ends_a_step_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "AGAIN_S", 0.05)
    released = threading.Event()
    after(0.1, signal.SIGINT, signal.SIGTERM, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        undisturbed(released.wait, StopRequest())
    assert not released.is_set()
    released.set()


def test_what_a_terminal_and_torchrun_send_at_once_is_one_ctrl_c() -> None:
    stop = StopRequest()

    def work() -> bool:
        after(0.01, signal.SIGINT, signal.SIGINT, signal.SIGINT)
        time.sleep(0.2)
        return stop.asked

    assert undisturbed(work, stop) and stop.interrupted


def in_a_thread(work: Callable[[], object]) -> list[object]:
    results: list[object] = []
    thread = threading.Thread(target=lambda: results.append(work()))
    thread.start()
    thread.join(20)
    return results


def test_another_thread_than_the_main_one_can_train_and_be_asked_to_stop() -> None:
    stop = StopRequest()
    threading.Timer(0.05, stop.ask).start()

    def work() -> str:
        while not stop.asked:
            time.sleep(0.01)
        return "ended"

    assert in_a_thread(lambda: undisturbed(work, stop)) == ["ended"]


def test_errors_of_the_work_are_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        undisturbed(lambda: 1 / 0, StopRequest())


def test_ctrl_c_saves_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "music").mkdir()
    config = small_recipe(tmp_path, write_recordings(tmp_path / "music"), steps=4000, checkpoint_every=4000)
    process, metrics = Started(tmp_path, ("pretrain", config), fork=True), tmp_path / "run/metrics.jsonl"
    while not (metrics.exists() and metrics.read_text().count("\n") > 2) and process.running():
        time.sleep(0.02)
    process.signal(signal.SIGINT)
    ended = process.end()
    assert ended.code == 130 and "run the same command again to go on" in ended.err, ended
    last = json.loads(metrics.read_text().splitlines()[-1])["step"]
    assert newest(tmp_path / "run").name == f"step_{last:08d}"


@pytest.mark.check
def test_fifty_stops_cost_no_checkpoint_and_no_bit(tmp_path: Path) -> None:
    """Without faulthandler, which pytest enables and which hides what a signal does to the stack of a kernel."""
    script = Path(__file__).parents[1] / "harness" / "stops.py"
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONFAULTHANDLER"}
    path = os.pathsep.join(filter(None, [str(script.parents[1]), str(script.parents[2]), variables.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path), "50"], env=variables | {"PYTHONPATH": path},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["stops"] >= 50 and found["kept"] and found["same"]
