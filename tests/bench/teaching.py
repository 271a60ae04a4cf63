"""What teachers cost beside a training step of mert-nano's size, on one thread: `python tests/bench/teaching.py`.

CPU time of eight clips: medians over rounds in which all sides run in turns. The step is that of `nano` with these
clips: forward, backward and update, without its targets. Teachers whose package is missing are left out.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from harness.sounds import music
from measuring import machine
from rich.console import Console

from mert.train.corpus.base import GeneratedCorpus
from mert.train.engine import Engine
from mert.train.objective import Group
from mert.train.parallel import World
from mert.train.recipe import nano_recipe
from teachers import load_teacher
from teachers.base import TeacherError

CLIPS = 8
NAMES = ("cqt", "random_projection", "basic_pitch", "musicnn", "musicnn_frames")


class Pieces:
    """As many pieces as clips, a little longer than these."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds + 0.5

    def __len__(self) -> int:
        return CLIPS

    def read(self, index: int):  # type: ignore[no-untyped-def]
        return music(self.seconds, seed=index)


def step_of(seconds: float) -> tuple[Callable[[], object], Group]:
    """A step of `nano` on clips of so many seconds without their targets, and the group that it trains on."""
    recipe = replace(
        nano_recipe(), clip_s=seconds, batch_clips=CLIPS, group_clips=CLIPS, validate_clips=0, codebook_start=False,
        loader_workers=0,
    )  # fmt: skip
    teachers = {name: load_teacher(name) for name in recipe.teachers}
    engine = Engine(recipe, GeneratedCorpus(Pieces(seconds), 24_000), teachers, World(0, 1, torch.device("cpu")))
    group = engine.batches.group(1, 0)
    engine.batches.next_group = lambda step, number: group  # type: ignore[method-assign]
    return partial(engine.step, 1), group


def cpu_s(run: Callable[[], object]) -> float:
    started = time.process_time()
    run()
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, nargs="+", default=[3.0, 5.0])
    options = parser.parse_args()
    torch.set_num_threads(1)
    console = Console()
    console.print(machine())
    for seconds in options.seconds:
        step, group = step_of(seconds)
        sides: dict[str, Callable[[], object]] = {"step": step}
        for name in NAMES:
            try:
                sides[name] = partial(load_teacher(name).targets, group.wave_BN)  # type: ignore[attr-defined]
            except TeacherError as error:
                console.print(f"left out: {error}")
        rounds = [{name: cpu_s(run) for name, run in sides.items()} for _ in range(options.rounds + 1)][1:]
        for name in sides:
            cost_ms = 1000 * median(costs[name] for costs in rounds) / CLIPS / seconds
            console.print(f"clips of {seconds:g} s, {name}: {cost_ms:.1f} ms of CPU for a second of audio")


if __name__ == "__main__":
    main()
