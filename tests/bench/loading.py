"""Data for training: opening 100,000 recordings, clips a second from a prepared store, and what `nano` waits for.

Writes 5 GB below --folder and removes them. The clips of single files of each format are timed by `clips.py`.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from measuring import machine, named, write

from mert.train.corpus.opening import open_corpus
from mert.train.corpus.prepare import PrepareOptions, planned, prepare

RATE = 24_000
OPENING = """
import json, sys, time
from pathlib import Path
from mert.train.corpus.opening import open_corpus
peak = lambda: int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
before = peak()
started, cpu = time.perf_counter(), time.process_time()
corpus = open_corpus(sys.argv[1], 24000, 1000, {}, Path(sys.argv[2]) if len(sys.argv) > 2 else None)
corpus.read(len(corpus) - 1, 0, 1000)
print(json.dumps({"recordings": len(corpus), "s": time.perf_counter() - started, "cpu_s": time.process_time() - cpu,
                  "peak_mb": peak(), "of_which_corpus_mb": peak() - before}))
"""


def opening(data: Path, *index: Path) -> dict[str, Any]:
    """A fresh process opens a corpus and reads one clip."""
    line = [sys.executable, "-c", OPENING, str(data), *map(str, index)]
    return dict(json.loads(subprocess.run(line, check=True, capture_output=True, text=True).stdout))


def many_recordings(folder: Path, n: int) -> None:
    """So many recordings of 0.1 s in folders of a thousand."""
    random = np.random.default_rng(0)
    wave_N = random.integers(-9000, 9000, RATE // 10, dtype=np.int16)
    for i in range(n):
        place = folder / f"{i // 1000:03d}"
        place.mkdir(parents=True, exist_ok=True)
        wave_N[:2] = divmod(i, 1000)  # no two alike
        soundfile.write(place / f"{i:06d}.wav", wave_N, RATE)


def clips_from_a_store(folder: Path, hours: float, seconds: float) -> dict[str, float]:
    """Random clips of 5 s, one core, from a store whose pages are in memory; and of a first pass over the disk."""
    music = folder / "hours"
    music.mkdir()
    random = np.random.default_rng(0)
    wave_N = random.integers(-9000, 9000, 240 * RATE, dtype=np.int16)
    for i in range(round(hours * 15)):
        wave_N[:2] = divmod(i, 1000)
        soundfile.write(music / f"{i:04d}.wav", wave_N, RATE)
    options = PrepareOptions(str(music), str(folder / "store"), RATE)
    started = time.process_time()
    prepare(options, planned(options))
    prepared_s = time.process_time() - started
    corpus = open_corpus(options.out, RATE, 5 * RATE, {})
    n, started, cpu = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - started < seconds:
        index = int(random.integers(len(corpus)))
        corpus.read(index, int(random.integers(corpus.lengths[index] - 5 * RATE)), 5 * RATE)
        n += 1
    spent = time.process_time() - cpu
    return {"clips_per_cpu_s": n / spent, "clips": n, "prepare_cpu_s_per_hour_of_24_khz_wav": prepared_s / hours}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recordings", type=int, default=100_000)
    parser.add_argument("--hours", type=float, default=10.0)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--out", type=Path, default=Path("bench_out/loading.json"))
    options = parser.parse_args()
    results: dict[str, Any] = {"machine": machine()}
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        folder = Path(temporary)
        results["store"] = clips_from_a_store(folder, options.hours, options.seconds)
        shutil.rmtree(folder / "hours")
        many_recordings(folder / "many", options.recordings)
        for name in ("folder, first start", "folder, with its index"):
            results[name] = opening(folder / "many", folder / "run")
        small = PrepareOptions(str(folder / "many"), str(folder / "many_store"), RATE)
        prepare(small, planned(small))
        results["store of as many"] = opening(folder / "many_store")
    print(named(results["machine"]))
    for name, numbers in results.items():
        if name != "machine":
            print(f"{name}: " + ", ".join(f"{key} {value:.4g}" for key, value in numbers.items()))
    results["peak_mb_of_this_process"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    write(results, options.out)


if __name__ == "__main__":
    main()
