"""A run that is stopped by signals again and again, beside one that is not: `python stops.py FOLDER STOPS`.

Signals come at random moments of each step. The model's convolution of positions is one that torch computes with the
stack pointer in a buffer on the heap. Prints one line of JSON: the stops, whether each left its checkpoint, and whether
weights and moments are in the end those of the run without stops. faulthandler would give the main thread another
stack for signals, so it must be off.
"""

from __future__ import annotations

import faulthandler
import json
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import soundfile
import torch

from harness.small_runs import ALONE, newest, same_bits
from harness.sounds import music, tiny_config
from mert.train.corpus.opening import open_corpus
from mert.train.engine import Engine
from mert.train.recipe import Recipe
from mert.train.run_folder import RunLog
from teachers import load_teacher

BURST = 8  # signals a stop: one alone rarely meets the convolution


def engine(folder: Path, steps: int, out: str) -> Engine:
    model = tiny_config(
        dim=256, n_layers=1, conv_kernels=(40, 19), conv_strides=(20, 16), position_kernel=128, position_groups=16
    )
    recipe = Recipe(
        out=str(folder / out), data=str(folder / "music"), model=model, steps=steps, warmup_steps=0, clip_s=0.5,
        batch_clips=4, group_clips=4, class_width=8, validate_clips=0, checkpoint_every=1000,
        teachers=("random_projection",),
    )  # fmt: skip
    corpus = open_corpus(recipe.data, 24_000, recipe.clip_samples, {})
    return Engine(recipe, corpus, {"random_projection": load_teacher("random_projection")}, ALONE)


def stopped_run(stopped: Engine, step_s: float) -> int:
    """Run until a signal stops it, which comes at a random moment of its first steps; the last step done."""
    group = stopped.batches.next_group

    def with_signals(*place: int) -> Any:
        stopped.batches.next_group = group  # type: ignore[method-assign]
        threading.Thread(target=send, args=(step_s,)).start()
        return group(*place)

    stopped.batches.next_group = with_signals  # type: ignore[method-assign]
    return stopped.run()


def send(step_s: float) -> None:
    for _ in range(BURST):
        time.sleep(random.random() * step_s / BURST * 2)
        os.kill(os.getpid(), random.choice((signal.SIGTERM, signal.SIGUSR1)))


def main(folder: Path, n_stops: int) -> dict[str, Any]:
    assert not faulthandler.is_enabled()
    RunLog._draw = lambda runlog: None  # type: ignore[method-assign]  # it takes longer than a step
    torch.set_num_threads(2)
    torch.ones(1000, 1000) @ torch.ones(1000, 1000)  # a pool of threads that block no signal
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda number, frame: None)  # a late one
    (folder / "music").mkdir()
    for i in range(6):
        soundfile.write(folder / "music" / f"{i}.wav", music(1.0, seed=i), 24_000)
    steps = n_stops + 2
    whole = engine(folder, steps, "whole")
    started = time.perf_counter()
    whole.run()
    step_s = (time.perf_counter() - started) / steps
    done, stops, kept = 0, 0, True
    while done < steps:
        done = stopped_run(engine(folder, steps, "stopped"), step_s)
        stops += done < steps
        kept &= newest(folder / "stopped").name == f"step_{done:08d}"
    same = same_bits(newest(folder / "stopped"), newest(folder / "whole"))
    return {"stops": stops, "kept": kept, "same": same}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]))))
