"""What the benches share: medians in turns, what machine it was, and a JSON file in bench_out/."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[2]
LONG_S = 10.0  # a call that takes longer is timed once behind its warm-up


def interleaved(functions: dict[str, Callable[[], object]], rounds: int = 3) -> dict[str, float]:
    """Median seconds of each function, run in turns so that a noisy machine disturbs all alike."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    first: dict[str, float] = {}
    for turn in range(1 + rounds):
        for name, function in functions.items():
            if turn > 1 and first[name] > LONG_S:
                continue
            start = time.perf_counter()
            function()
            spent = time.perf_counter() - start
            if turn:
                times[name].append(spent)
            first[name] = spent
    return {name: statistics.median(spent) for name, spent in times.items()}


def spent(function: Callable[[], object]) -> dict[str, float]:
    """Seconds of a call, and those of all its threads on the CPU, which other programs lengthen less."""
    started, cpu_started = time.perf_counter(), time.process_time()
    function()
    return {"seconds": time.perf_counter() - started, "cpu_s": time.process_time() - cpu_started}


def extra_mib(function: Callable[[], object], device: str = "cpu") -> float:
    """Peak memory of a call, of the GPU or of the process (Linux), over what was held before it."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        function()
        return (torch.cuda.max_memory_allocated() - held) / 2**20
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is from now on
    before = status_kib("VmRSS")
    function()
    return (status_kib("VmHWM") - before) / 1024


def status_kib(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))


def machine() -> dict[str, Any]:
    """Where and of what the numbers are."""
    facts = cpu_facts()
    wanted = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
    return {
        "cpu": facts.get("model name", platform.processor() or platform.machine()),
        "has": [flag for flag in wanted if flag in facts.get("flags", "").split()],
        "onednn_max_cpu_isa": os.environ.get("ONEDNN_MAX_CPU_ISA", "ALL"),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "cores": os.cpu_count(), "threads": torch.get_num_threads(), "load_before": os.getloadavg(),
        "torch": torch.__version__, "python": platform.python_version(),
        "commit": commit(), "date": time.strftime("%Y-%m-%d"),
    }  # fmt: skip


def cpu_facts() -> dict[str, str]:
    """The last processor's lines of /proc/cpuinfo; nothing where there is none."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}


def commit() -> str:
    git = ["git", "-C", str(ROOT)]
    try:
        head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], check=True, capture_output=True, text=True)
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no"], check=True, capture_output=True, text=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.stdout.strip() + (" and changes" if changed.stdout else "")


def named(facts: dict[str, Any]) -> str:
    """A machine in a line, for a table's title."""
    with_what = ", ".join((*facts["has"], *([facts["gpu"]] if facts["gpu"] else [])))
    return f"{facts['cpu']} ({with_what}), {facts['threads']} threads, torch {facts['torch']}, commit {facts['commit']}"


def write(results: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(f"written to {path}")
