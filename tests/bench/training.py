"""Speed and memory of a training step against a reference construction: `make bench`, of the 95M shape.

Four clips of 5 s, codes given to both sides, layer drop off so that every step does the same work. Both sides have the
same weights, batch and masks, and run in turns in one process; ratios are of medians. Ours is what `mert pretrain` runs
with `clips_at_once=1`. Peak memory is that of a process of its own for each side: all of it, interpreter and libraries
included, over two steps. OpenMP's threads sleep while they wait for each other, unless OMP_WAIT_POLICY says otherwise:
on cores that others use, too, spinning threads cost either side several times its work. It takes some ten minutes, and
the reference 12 GB of memory.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch comes
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from harness.sounds import music
from measuring import interleaved, machine, named, write
from rich.console import Console
from rich.table import Table

from mert.models.config import base_95m, nano
from mert.train.batches import Batches
from mert.train.corpus.base import GeneratedCorpus
from mert.train.engine import Engine, Update
from mert.train.parallel import World
from mert.train.recipe import Recipe
from teachers.base import Targets, Teacher
from teachers.cqt import CqtTeacher

CLIPS, SECONDS = 4, 5.0
CPU = torch.device("cpu")
SHAPES = {"95m": base_95m, "nano": nano}
AT_LEAST = {"float32": 3.5, "bfloat16": 6.0}
SIDES = {"ours": 1, "ours, all clips at once": 0, "reference": 0}
Row = tuple[str, str, str, str]


class GivenCodes(Teacher):
    """Random codes, at no cost; remembers the clean clips of the newest group."""

    name, n_classes = "given", (1024,) * 8

    def __init__(self) -> None:
        super().__init__({}, {})
        random = torch.Generator().manual_seed(0)
        self.codes_BKT = torch.randint(0, 1024, (CLIPS, 8, 375), generator=random)

    def targets(self, wave_BN: torch.Tensor) -> Targets:
        self.clean_BN = wave_BN
        return Targets(self.codes_BKT, None, self.rate_hz, self.fingerprint)


class Clips:
    """As many pieces as a batch needs, in memory."""

    seconds = SECONDS

    def __init__(self) -> None:
        self._waves = [music(SECONDS, seed=i) for i in range(CLIPS)]

    def __len__(self) -> int:
        return CLIPS

    def read(self, index: int) -> np.ndarray:
        return self._waves[index]


def engine_of(shape: str, dtype: str, clips_at_once: int = 1) -> Engine:
    recipe = Recipe(
        model=replace(SHAPES[shape](), layer_drop=0.0), teachers=("given", "cqt"), batch_clips=CLIPS, group_clips=CLIPS,
        clips_at_once=clips_at_once, clip_s=SECONDS, extra_classes=4, validate_clips=0, dtype=dtype,
    )  # fmt: skip
    teachers = {"given": GivenCodes(), "cqt": CqtTeacher()}
    return Engine(recipe, GeneratedCorpus(Clips(), 24_000), teachers, World(0, 1, CPU))


class Reference:
    """The reference construction, fed with the engine's batches."""

    def __init__(self, engine: Engine) -> None:
        from reference_step import ReferenceStep

        self.batches: Batches = engine.batches
        self.module = ReferenceStep(engine.recipe, engine.objective, "given").train()

    def step(self, number: int) -> float:
        """Seconds of one update, the batch given."""
        group = self.batches.group(number, 0)
        clean_BN = self.batches.teachers["given"].clean_BN  # type: ignore[attr-defined]
        start = time.perf_counter()
        self.module.step(group, clean_BN)
        return time.perf_counter() - start


def same_loss(engine: Engine, reference: Reference) -> tuple[float, float]:
    """Losses a masked frame of both sides, without dropout: they must be doing the same work."""
    group = engine.batches.group(1, 0)
    clean_BN = reference.batches.teachers["given"].clean_BN  # type: ignore[attr-defined]
    for module in (engine.objective, reference.module):
        module.eval()
    with torch.no_grad():
        losses = engine.objective(group)[0] / group.n_masked, reference.module(group, clean_BN) / group.n_masked
    for module in (engine.objective, reference.module):
        module.train()
    ours, theirs = map(float, losses)
    if abs(ours - theirs) > 1e-4 * theirs:
        raise SystemExit(f"the two sides compute different losses: {ours} and {theirs}")
    return ours, theirs


def peaks_of(side: str, shape: str, dtype: str) -> dict[str, float]:
    """Peak resident memory in MiB of this process once all is loaded, and after two steps of one side."""
    engine = engine_of(shape, dtype, SIDES[side])
    work: Any = Reference(engine) if side == "reference" else engine
    if work is not engine:  # the reference shares nothing with ours but batches
        del engine.optimizer, engine.module, engine.objective
    loaded = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    for number in (1, 2):
        work.step(number)
    return {"loaded_mib": loaded, "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def peaks_apart(side: str, shape: str, dtype: str) -> dict[str, float]:
    """`peaks_of` in a process of its own. A child's ru_maxrss begins with its parent's, so this comes first of all."""
    command = [sys.executable, __file__, "--peak-of", side, "--model", shape, "--dtypes", dtype]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


@contextmanager
def stopwatch(owner: Any, function: Callable[..., object], spent: dict[str, float], part: str) -> Iterator[None]:
    """While this lasts, the time in the function or method of this name is added to `spent[part]`."""
    name = function.__name__
    inner, held = getattr(owner, name), name in vars(owner)

    def timed(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        try:
            return inner(*args, **kwargs)
        finally:
            spent[part] = spent.get(part, 0.0) + time.perf_counter() - start

    setattr(owner, name, timed)
    try:
        yield
    finally:
        setattr(owner, name, inner) if held else delattr(owner, name)


def shares(engine: Engine, number: int) -> dict[str, float]:
    """Seconds of the parts of one step. Batch preparation is reading, masks and mixing: all of a group but the CQT."""
    spent: dict[str, float] = {}
    start = time.perf_counter()
    with (
        stopwatch(engine.batches, Batches.next_group, spent, "batch"),
        stopwatch(engine.batches, Batches.counts, spent, "masks counted"),
        stopwatch(engine.batches.teachers["cqt"], CqtTeacher.targets, spent, "CQT"),
        stopwatch(Update, Update.loss, spent, "forward"),
        stopwatch(torch.Tensor, torch.Tensor.backward, spent, "backward"),
        stopwatch(torch.nn.utils, torch.nn.utils.clip_grad_norm_, spent, "clipping"),
        stopwatch(engine.optimizer, torch.optim.AdamW.step, spent, "AdamW"),
    ):
        engine.step(number)
    whole = time.perf_counter() - start
    spent["mask, mixing, batch"] = spent.pop("batch") - spent["CQT"] + spent.pop("masks counted")
    return spent | {"the rest": whole - sum(spent.values())}


def time_steps(shape: str, dtype: str, rounds: int) -> dict[str, Any]:
    """Seconds of each step of both sides, in turns, after one that does not count; and the parts of ours."""
    engine = engine_of(shape, dtype)
    reference = Reference(engine)
    result: dict[str, Any] = {"ours_s": [], "reference_s": [], "losses": None}
    if dtype == "float32":
        result["losses"] = same_loss(engine, reference)
    parts: list[dict[str, float]] = []
    for number in range(1, rounds + 2):
        result["reference_s"].append(reference.step(number))
        start = time.perf_counter()
        engine.step(number)
        result["ours_s"].append(time.perf_counter() - start)
    parts = [shares(engine, number) for number in range(rounds + 2, 2 * rounds + 2)]
    for side in ("ours_s", "reference_s"):
        result[side] = result[side][1:]
    result["parts_s"] = {name: statistics.median(part[name] for part in parts) for name in parts[0]}
    return result


@torch.no_grad()
def time_cqt(rounds: int) -> list[dict[str, float]]:
    """The CQT of 1 and 4 clips with 1 and 2 threads, against nnAudio's."""
    from nnAudio.features import CQT

    theirs = CQT(
        sr=24_000, hop_length=320, fmin=32.7, n_bins=336, bins_per_octave=48, filter_scale=1, norm=1, window="hann",
        center=True, pad_mode="constant", output_format="Magnitude", verbose=False,
    )  # fmt: skip
    ours, before, rows = CqtTeacher(), torch.get_num_threads(), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for clips in (1, CLIPS):
            wave_BN = torch.from_numpy(np.stack([music(SECONDS, seed=i) for i in range(clips)]))
            got, wanted = ours.cqt(wave_BN).double(), theirs(wave_BN).transpose(1, 2).double()
            error = float((got - wanted).square().mean().sqrt() / wanted.square().mean().sqrt())
            sides = {"ours_s": partial(ours.targets, wave_BN), "nnaudio_s": partial(theirs, wave_BN)}
            rows.append(interleaved(sides, rounds) | {"threads": threads, "clips": clips, "rms": error})
    torch.set_num_threads(before)
    return rows


def rows_of(dtype: str, results: dict[str, Any]) -> Iterator[Row]:
    """A type's results as lines of the table."""
    steps, peaks = results["steps"][dtype], results["peaks"][dtype]
    ours, theirs = (statistics.median(steps[side]) for side in ("ours_s", "reference_s"))
    held = dtype == "float32" or "amx_bf16" in results["machine"]["has"]
    wanted = f">= {AT_LEAST[dtype]:g}" if held else f">= {AT_LEAST[dtype]:g} with AMX, not here"
    yield f"step, {dtype}", f"{ours:.2f} s, reference {theirs:.2f} s", f"{theirs / ours:.2f} times faster", wanted
    for side, peak in peaks.items():
        shown = f"{peak['peak_mib']:.0f} MiB, of it {peak['loaded_mib']:.0f} before the first step"
        wanted = "<= 0.33" if side == "ours" else ""
        yield f"peak memory, {side}", shown, f"ratio {peak['peak_mib'] / peaks['reference']['peak_mib']:.2f}", wanted
    whole = sum(steps["parts_s"].values())
    for name, seconds in steps["parts_s"].items():
        limit = "< 5 %" if name.startswith("mask") else ""
        yield f"  {name}", f"{seconds:.3f} s", f"{100 * seconds / whole:.1f} % of the step", limit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("bench_out/training.json"))
    parser.add_argument("--model", choices=SHAPES, default="95m")
    parser.add_argument("--rounds", type=int, default=3, help="steps that count; medians are taken")
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    dtypes = arguments.dtypes.split(",")
    if arguments.peak_of:
        print(json.dumps(peaks_of(arguments.peak_of, arguments.model, dtypes[0])))
        return
    facts = machine() | {"omp_wait_policy": os.environ["OMP_WAIT_POLICY"]}
    results: dict[str, Any] = {"machine": facts, "cqt": [], "steps": {}, "peaks": {}}
    for dtype in dtypes:
        results["peaks"][dtype] = {side: peaks_apart(side, arguments.model, dtype) for side in SIDES}
    results["cqt"] = time_cqt(max(5, arguments.rounds))
    for dtype in dtypes:
        results["steps"][dtype] = time_steps(arguments.model, dtype, arguments.rounds)
    table = Table("what", "measured", "", "wanted", title=f"training, {arguments.model}, {named(facts)}")
    for row in results["cqt"]:
        name = f"CQT of {row['clips']} x 5 s, {row['threads']} threads"
        shown = f"{1e3 * row['ours_s']:.0f} ms, nnAudio {1e3 * row['nnaudio_s']:.0f} ms, rms error {row['rms']:.0e}"
        table.add_row(name, shown, f"{row['nnaudio_s'] / row['ours_s']:.0f} times faster", ">= 10, <= 1e-4")
    for dtype in dtypes:
        for line in rows_of(dtype, results):
            table.add_row(*line)
    if {"float32", "bfloat16"} <= set(dtypes):
        ours, theirs = results["steps"]["bfloat16"]["ours_s"], results["steps"]["float32"]["reference_s"]
        ratio = statistics.median(theirs) / statistics.median(ours)
        table.add_row("bfloat16 against the reference in float32", "", f"{ratio:.2f} times faster", "")
    Console(width=120).print(table)
    write(results, arguments.out)


if __name__ == "__main__":
    main()
