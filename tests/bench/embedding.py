"""Speed and memory of embedding, printed as a table: `make bench`. Ratios are of medians in one process."""

from __future__ import annotations

import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from conftest import music
from oracle import Hubert
from rich.console import Console
from rich.table import Table

import mert
from mert.config import base_95m
from mert.model import Mert

ROUNDS = 5


def interleaved(*functions: Callable[[], object]) -> list[float]:
    """Median seconds of each function, run in turns so that a noisy machine disturbs all alike."""
    for function in functions:
        function()
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(ROUNDS):
        for function, spent in zip(functions, times, strict=True):
            start = time.perf_counter()
            function()
            spent.append(time.perf_counter() - start)
    return [statistics.median(spent) for spent in times]


def forward_ratio(table: Table) -> None:
    torch.manual_seed(0)
    model = Mert(base_95m()).eval()
    oracle = Hubert(model)
    for clips, seconds in ((1, 30), (6, 5)):
        wave = torch.from_numpy(np.stack([music(seconds, seed=i) for i in range(clips)]))
        with torch.inference_mode():
            ours, theirs = interleaved(lambda w=wave: model(w), lambda w=wave: oracle.states(w))
        shown = f"{ours:.2f} s, HubertModel (SDPA) {theirs:.2f} s"
        table.add_row(f"95M forward, float32, {clips} x {seconds} s", shown, f"ratio {ours / theirs:.2f}", "1.0")


def peak_mib(model: Path, audio: Path, out: Path) -> float:
    """Peak resident memory of `mert embed`, in a process of its own."""
    command = [sys.executable, "-m", "mert.cli", "embed", str(audio), "-m", str(model), "-o", str(out)]
    code = f"import resource, subprocess; subprocess.run({command!r}, check=True, stdout=subprocess.DEVNULL);"
    code += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    return int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout) / 1024


def memory_ratio(table: Table, folder: Path) -> None:
    model = folder / "model"
    mert.save_pretrained(mert.random_model("nano"), model)
    peaks, minute = [], music(60)
    for name, repeats in (("minute", 1), ("hour", 60)):
        with soundfile.SoundFile(folder / f"{name}.flac", "w", 24_000, 1) as file:
            for _ in range(repeats):
                file.write(minute)
        peaks.append(peak_mib(model, folder / f"{name}.flac", folder / "out"))
    shown = f"1 h {peaks[1]:.0f} MiB, 1 min {peaks[0]:.0f} MiB"
    table.add_row("peak memory of mert embed (nano)", shown, f"ratio {peaks[1] / peaks[0]:.2f}", "1.3")


def help_time(table: Table) -> None:
    command = [str(Path(sys.executable).parent / "mert"), "--help"]
    (spent,) = interleaved(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL))
    table.add_row("mert --help", f"{spent:.2f} s", "", "0.4 s")


def main() -> None:
    table = Table("what", "measured", "", "at most", title=f"{platform.processor() or platform.machine()}, "
                  f"{torch.get_num_threads()} threads, torch {torch.__version__}")  # fmt: skip
    help_time(table)
    with tempfile.TemporaryDirectory() as folder:
        memory_ratio(table, Path(folder))
    forward_ratio(table)
    Console(width=120).print(table)
    print(f"peak of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB")


if __name__ == "__main__":
    main()
