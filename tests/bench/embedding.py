"""Speed and memory of embedding, as tables and as JSON: `make bench`. Ratios are of medians, taken in turns.

`--models`, `--seconds`, `--batches` and `--methods` choose a part of the grid (all of it takes most of an hour).
`--device cuda --models 95m,330m --batches 8,64` gives hours of audio a second on a GPU.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from harness.oracle import Hubert
from harness.sounds import music
from measuring import extra_mib, interleaved, machine, named, write
from rich.console import Console
from rich.table import Table
from torch.nn.utils.parametrize import remove_parametrizations

import mert
from mert.collection.job import EmbedStage, JobOptions
from mert.collection.plan import plan
from mert.embedding.embedder import Embedder
from mert.inference.fast import FastMert
from mert.inference.kernels import has_bfloat16
from mert.models.config import MertConfig, base_95m, large_330m
from mert.models.mert import Mert
from mert.weights.checkpoints import digest
from mert.weights.onnx_export import export_onnx
from mert.weights.registry import ModelInfo

SIZES = {"mert-nano": None, "95m": base_95m, "330m": large_330m}
METHODS = ("class eager", "class sdpa", "class tuned", "float32", "bfloat16", "int8", "onnx")
CPU_ONLY = ("int8", "onnx")
Forward = Callable[[], object]


def flops(config: MertConfig, n_samples: int) -> float:
    """Multiplications and additions of a forward pass of one clip."""
    total, n, c_in = 0.0, n_samples, 1
    for kernel, stride in zip(config.conv_kernels, config.conv_strides, strict=True):
        n = (n - kernel) // stride + 1
        total += 2 * n * kernel * c_in * config.conv_dim
        c_in = config.conv_dim
    d = config.dim
    position = n * d * config.position_kernel * d // config.position_groups
    block = n * (4 * d * d + 2 * d * config.ffn_dim) + 2 * n * n * d
    return total + 2 * (n * config.conv_dim * d + position + config.n_layers * block)


def best_type(device: str) -> torch.dtype:
    return torch.bfloat16 if has_bfloat16(device) else torch.float32


def finished(function: Forward, device: str) -> Forward:
    """The same call, which returns when the device has done it."""

    def call() -> None:
        function()
        if device == "cuda":
            torch.cuda.synchronize()

    return call


def matrix_rate(device: str) -> float:
    """FLOPs a second of a matrix product of the encoder's shape in `best_type`, of as many rows as fill the device."""
    rows = 2244 if device == "cpu" else 2244 * 32
    a, b = (torch.randn(shape, device=device).to(best_type(device)) for shape in ((rows, 768), (768, 3072)))
    products = finished(lambda: [a @ b for _ in range(20)], device)
    (spent,) = interleaved({"products": products}, rounds=9).values()
    return 20 * 2 * rows * 768 * 3072 / spent


def published(oracle: Hubert, device: str, attention: str) -> Any:
    """Another instance of the published class, with the oracle's weights."""
    import transformers

    model = transformers.HubertModel._from_config(oracle.model.config, attn_implementation=attention).eval()
    model.load_state_dict(oracle.model.state_dict())
    return model.to(device)


def tuned(oracle: Hubert, device: str) -> Callable[[torch.Tensor], object]:
    """The published class at its best: SDPA, the type that suits, weight norm folded, compiled, weights frozen."""
    import torch._inductor.config as inductor

    inductor.freezing = True
    model = published(oracle, device, "sdpa")  # copies would share the class that folding changes
    remove_parametrizations(model.encoder.pos_conv_embed.conv, "weight")
    dtype = best_type(device)
    model = torch.compile(model.to(dtype), dynamic=False, mode="max-autotune" if device == "cuda" else None)
    return lambda wave_BN: model(wave_BN.to(dtype), output_hidden_states=True)


def methods(model: Mert, wave_BN: torch.Tensor, chosen: list[str], folder: Path) -> dict[str, Forward]:
    """What is compared, by name; each gives all hidden states of `wave_BN`, on the device where that lies."""
    device = wave_BN.device.type
    chosen = [name for name in chosen if device == "cpu" or name not in CPU_ONLY]
    made: dict[str, Forward] = {}
    if "float32" in chosen:
        exact = FastMert(model)
        made["float32"] = lambda: exact(wave_BN)
    if "bfloat16" in chosen and best_type(device) == torch.bfloat16:
        half = FastMert(model, torch.bfloat16)
        made["bfloat16"] = lambda: half(wave_BN)
    if "int8" in chosen:
        int8 = FastMert(model, best_type(device), int8=True)
        made["int8"] = lambda: int8(wave_BN)
    if "onnx" in chosen:
        made["onnx"] = onnx(model, wave_BN, folder)
    if any(name.startswith("class") for name in chosen):
        oracle = Hubert(model, torch.float32)
        oracle.model.to(device)
        if "class eager" in chosen:
            eager = published(oracle, device, "eager")
            made["class eager"] = lambda: eager(wave_BN, output_hidden_states=True)
        if "class sdpa" in chosen:
            made["class sdpa"] = lambda: oracle.model(wave_BN, output_hidden_states=True)
        if "class tuned" in chosen:
            best = tuned(oracle, device)
            made["class tuned"] = lambda: best(wave_BN)
    return {name: made[name] for name in METHODS if name in made}


def onnx(model: Mert, wave_BN: torch.Tensor, folder: Path) -> Forward:
    import onnxruntime

    path = folder / f"{digest(model)[:12]}.onnx"
    if not path.exists():
        export_onnx(model, path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(["states"], {"wave": wave_BN.numpy()})


def model_named(name: str) -> Mert:
    """A registered model with its weights; the published shapes with random ones."""
    torch.manual_seed(0)
    size = SIZES.get(name)
    return mert.load(name, device="cpu").model if size is None else Mert(size()).eval()


def forward_rows(asked: argparse.Namespace, folder: Path, limit: float) -> list[dict[str, Any]]:
    rows = []
    for name in asked.models.split(","):
        model = model_named(name).to(asked.device)
        for seconds in map(float, asked.seconds.split(",")):
            for batch in map(int, asked.batches.split(",")):
                wave_BN = torch.from_numpy(np.stack([music(seconds, seed=i) for i in range(batch)])).to(asked.device)
                made = methods(model, wave_BN, asked.methods.split(","), folder)
                functions = {key: finished(function, asked.device) for key, function in made.items()}
                with torch.inference_mode():
                    spent = interleaved(functions)
                    memory = {key: extra_mib(function, asked.device) for key, function in functions.items()}
                least_s = batch * flops(model.config, wave_BN.shape[1]) / limit
                for key, value in spent.items():
                    rows.append({"model": name, "window_s": seconds, "batch": batch, "method": key, "seconds": value,
                                 "per_audio_second": value / (seconds * batch),
                                 "audio_hours_per_second": seconds * batch / value / 3600, "limit_seconds": least_s,
                                 "of_limit": value / least_s, "extra_mib": memory[key]})  # fmt: skip
                    print(json.dumps(rows[-1]), flush=True)
    return rows


def depth_row(model: Mert, device: str) -> dict[str, float]:
    """Seconds of one 30 s window in `best_type` up to layer 6, and up to layer 12."""
    fast, wave_BN = FastMert(model.to(device), best_type(device)), torch.from_numpy(music(30)[None]).to(device)
    calls = {f"layer{i:02}": finished(partial(fast, wave_BN, layers=[i]), device) for i in (6, 12)}
    return interleaved(calls, rounds=5)


def job_row(name: str, folder: Path, device: str, n_files: int = 12) -> dict[str, float]:
    """Seconds of audio a second: the corpus job on a folder of MP3, and the bare forward pass of the same windows."""
    model = model_named(name)
    where = mert.save_pretrained(Embedder(model, ModelInfo.of(model, name), digest(model), "cpu"), folder / name)
    for i in range(n_files):
        soundfile.write(folder / "mp3" / f"{i}.mp3", np.stack([music(30, 44_100, seed=i)] * 2, 1), 44_100)
    jobs = plan([folder / "mp3"], folder / "out").jobs
    stage = EmbedStage(JobOptions(str(where), device=device))
    embedder, settings = stage.embedder, stage.settings
    n_samples = embedder.clock.n_samples(settings.windowing.frames or 0)
    windows = [music(n_samples / 24_000, seed=i)[:n_samples] for i in range(settings.batch_size)]
    n_windows = n_files * len(settings.windowing.plan(embedder.clock.n_frames(30 * 24_000)))

    def bare() -> None:
        for first in range(0, n_windows, len(windows)):
            list(
                embedder.runner.states(windows[: min(len(windows), n_windows - first)], settings.dtype, settings.layers)
            )

    spent = interleaved({"job": lambda: list(stage.rows(jobs)), "bare": bare})
    return {key: n_files * 30 / seconds for key, seconds in spent.items()}


def peak_mib(model: Path, audio: Path, out: Path) -> float:
    """Peak resident memory of `mert embed`, in a process of its own."""
    command = [sys.executable, "-m", "mert.cli", "embed", str(audio), "-m", str(model), "-o", str(out), "-d", "cpu"]
    code = f"import resource, subprocess; subprocess.run({command!r}, check=True, stdout=subprocess.DEVNULL);"
    code += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    return int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout) / 1024


def memory_row(folder: Path) -> dict[str, float]:
    """Peak MiB of `mert embed` on a minute and on an hour."""
    model = folder / "model"
    mert.save_pretrained(mert.random_model("nano"), model)
    minute = music(60)
    for name, repeats in (("minute", 1), ("hour", 60)):
        with soundfile.SoundFile(folder / f"{name}.flac", "w", 24_000, 1) as file:
            for _ in range(repeats):
                file.write(minute)
    return {name: peak_mib(model, folder / f"{name}.flac", folder / "out") for name in ("minute", "hour")}


def help_seconds() -> float:
    command = [str(Path(sys.executable).parent / "mert"), "--help"]
    run = interleaved({"help": lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL)}, rounds=5)
    return run["help"]


def shown(results: dict[str, Any]) -> Table:
    """Seconds per second of audio, and in brackets how many times as fast as the published class (eager)."""
    table = Table(title=named(results["machine"]))
    table.add_column("model, window, batch")
    for method in METHODS:
        table.add_column(method, justify="right")
    cells: dict[tuple[str, float, int], dict[str, dict[str, Any]]] = {}
    for row in results["forward"]:
        cells.setdefault((row["model"], row["window_s"], row["batch"]), {})[row["method"]] = row
    for (name, seconds, batch), of in cells.items():
        eager = of.get("class eager", {}).get("seconds", float("nan"))
        texts = [
            f"{of[method]['per_audio_second'] * 1e3:.3g} ms ({eager / of[method]['seconds']:.2f}x)\n"
            f"{of[method]['extra_mib']:.0f} MiB, limit x {of[method]['of_limit']:.2f}" if method in of else ""
            for method in METHODS
        ]  # fmt: skip
        table.add_row(f"{name}, {seconds:g} s, {batch}", *texts)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default=",".join(SIZES))
    parser.add_argument("--seconds", default="5,30")
    parser.add_argument("--batches", default="1,8")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--out", type=Path, default=Path("bench_out/embedding.json"))
    parser.add_argument("--forward-only", action="store_true")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    limit = matrix_rate(asked.device)
    results: dict[str, Any] = {"machine": machine(), "matrix_gflops": limit / 1e9}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "mp3").mkdir()
        results["forward"] = forward_rows(asked, folder, limit)
        if not asked.forward_only:
            results["depth_s"] = depth_row(model_named("95m"), asked.device)
            results["job_x_real_time"] = {size: job_row(size, folder, asked.device) for size in ("95m", "mert-nano")}
            results["peak_mib"] = memory_row(folder)
            results["help_s"] = help_seconds()
    Console(width=200).print(shown(results))
    print(json.dumps({key: value for key, value in results.items() if key != "forward"}, indent=1))
    write(results, asked.out)


if __name__ == "__main__":
    main()
