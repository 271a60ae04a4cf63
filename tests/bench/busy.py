"""Speed of `embed` beside other programs: seconds for 30 s of audio, at one and two threads, beside 0 to 2 busy cores.

`python tests/bench/busy.py`; seven minutes on two idle cores. "default" is OpenMP as torch sets it up, whose threads
spin while they wait for each other; "passive" is what `import mert` asks for, unless OMP_WAIT_POLICY is set.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time

SETTINGS: dict[str, tuple[int, dict[str, str]]] = {
    "one": (1, {}), "two, default": (2, {}), "two, passive": (2, {"OMP_WAIT_POLICY": "PASSIVE"}),
}  # fmt: skip
MODELS = {"mert-nano": 5, "95m": 2}  # and how often each embeds


def measure(threads: int) -> None:
    import numpy as np
    import torch

    import mert

    torch.set_num_threads(threads)
    wave_N = np.random.default_rng(0).standard_normal(30 * 24_000).astype(np.float32) / 10
    for name, n in MODELS.items():
        m = mert.random_model(name) if name == "95m" else mert.load(name, device="cpu")
        times_s = []
        for _ in range(n + 1):  # the first prepares the weights
            started = time.perf_counter()
            m.embed(wave_N, sr=24_000, dtype="float32", layers=[-1])
            times_s.append(time.perf_counter() - started)
        print(f"{statistics.median(times_s[1:]):.2f}")


def main() -> None:
    print("| beside | threads | " + " | ".join(MODELS) + " |\n|---|---|" + "---|" * len(MODELS))
    for n_busy in range(3):
        busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(n_busy)]
        for name, (threads, policy) in SETTINGS.items():
            known = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
            environment = known | policy | {"OMP_NUM_THREADS": str(threads)}
            line = [sys.executable, __file__, str(threads)]
            done = subprocess.run(line, env=environment, capture_output=True, text=True, check=True)
            print(f"| {n_busy} busy | {name} | " + " | ".join(done.stdout.split()) + " |", flush=True)
        for process in busy:
            process.kill()
            process.wait()


if __name__ == "__main__":
    measure(int(sys.argv[1])) if len(sys.argv) > 1 else main()
