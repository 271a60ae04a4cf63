"""What one GPU does in eight minutes: embedding, training step, teachers and loader, as one JSON file and one table.

    python tests/bench/gpu.py --out bench_out/gpu.json

Weights are random, of the published sizes; music is noise, which costs the same. Embedding runs beside the published
class (transformers' HubertModel with SDPA in bfloat16, and compiled), where that is installed. The utilisation of a
training step (MFU) is its floating-point operations, counted once by torch's FlopCounterMode, over its time and the
peak that Nvidia states for dense bfloat16. Sections end with the budget, and what they measured until then is kept: the
file is written after each. `--tiny` runs everything with small models, on a CPU as well.
Shapes: B clips, N samples, K codebooks, T frames.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parents[2]))  # where the package is not installed
from measuring import machine, named

from mert.inference.fast import FastMert
from mert.inference.runner import Runner, whole_float32
from mert.models.config import MertConfig, base_95m, large_330m, nano
from mert.models.mert import Mert
from teachers.base import Targets, Teacher

RATE = 24_000
PEAK_TFLOPS = {"H100 PCIe": 756, "H100": 989, "H200": 989, "H800": 989, "A100": 312, "L40S": 362}  # dense bfloat16
Row = dict[str, Any]
Section = Callable[["Scale"], Iterator[Row]]


@dataclass(frozen=True)
class Size:
    """A model, and how it is trained."""

    config: MertConfig
    group_clips: int
    clip_s: float
    recipe: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Scale:
    """How much is measured: the whole on a GPU, or a little of everything."""

    device: torch.device
    sizes: dict[str, Size]
    batch: int = 64
    n_groups: int = 4
    repeats: int = 20
    limit_s: float = 8.0  # of one measurement
    encodec: dict[str, int] = field(default_factory=dict)
    n_files: int = 64
    file_s: float = 30.0
    compiles: bool = True


def whole(device: torch.device) -> Scale:
    large = Size(large_330m(), 7, 5.12, {"class_width": 128, "clip_norm": 1.0})
    return Scale(device, {"95M": Size(base_95m(), 16, 5.0), "330M": large})


def tiny(device: torch.device) -> Scale:
    config = replace(nano(), dim=32, n_layers=2, n_heads=2, ffn_dim=64, conv_dim=16, window_s=1.0)
    return Scale(
        device, {"tiny": Size(config, 2, 1.0)}, batch=2, n_groups=1, repeats=2, limit_s=1.0,
        encodec={"n_filters": 4, "dimension": 16, "n_classes": 32, "lstm": 1}, n_files=4, file_s=1.5, compiles=False,
    )  # fmt: skip


class OutOfTimeError(BaseException):  # so that no library takes it for an error of its own
    """The budget of a section is used up."""


class AbsentError(Exception):
    """A section has nothing to measure on this machine."""


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raise OutOfTimeError in the block once these seconds are over."""

    def ring(number: int, frame: object) -> None:
        raise OutOfTimeError

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(0.001, seconds))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def synchronized(scale: Scale) -> None:
    if scale.device.type == "cuda":
        torch.cuda.synchronize()


def seconds_of(function: Callable[[], object], scale: Scale) -> float:
    """Median seconds of a call, when the device has done it; the first two do not count."""
    times: list[float] = []
    begun = time.perf_counter()
    for turn in range(2 + scale.repeats):
        start = time.perf_counter()
        function()
        synchronized(scale)
        if turn >= 2:
            times.append(time.perf_counter() - start)
        if times and time.perf_counter() - begun > scale.limit_s:
            break
    return statistics.median(times)


@contextmanager
def memory(scale: Scale, row: Row) -> Iterator[None]:
    """Write the peak of the GPU's memory in the block into a row."""
    if scale.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    yield
    if scale.device.type == "cuda":
        row["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30


def flops_of(function: Callable[[], object]) -> float:
    with FlopCounterMode(display=False) as counter:
        function()
    return float(counter.get_total_flops())


def peak_flops(scale: Scale) -> float | None:
    """FLOP/s that the maker states for this GPU."""
    if scale.device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(scale.device)
    return next((1e12 * tflops for part, tflops in PEAK_TFLOPS.items() if set(part.split()) <= set(name.split())), None)


def rate_row(what: str, seconds: float, flops: float, scale: Scale, **more: Any) -> Row:
    """A row of some work: seconds, FLOP/s, and their share of the stated peak."""
    peak = peak_flops(scale)
    share = {"mfu": flops / seconds / peak} if peak else {}
    return {"what": what, "seconds": seconds, "tflops": flops / seconds / 1e12} | share | more


def noise(n_clips: int, seconds: float, device: torch.device) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return 0.1 * torch.randn(n_clips, round(seconds * RATE), generator=generator).to(device)


def products(scale: Scale) -> Iterator[Row]:
    """The rate of bfloat16 matrix products of the encoder's shape: what a step can reach at most."""
    width = max(size.config.dim for size in scale.sizes.values())
    n_rows = scale.batch * 374
    a, b = (torch.randn(shape, device=scale.device).bfloat16() for shape in ((n_rows, width), (width, 4 * width)))
    seconds = seconds_of(lambda: [a @ b for _ in range(10)], scale)
    yield rate_row(f"products [{n_rows}, {width}] x [{width}, {4 * width}]", seconds, 80 * n_rows * width**2, scale)


def published(model: Mert, device: torch.device) -> Any:
    """transformers' HubertModel with SDPA and the weights of a Mert, in bfloat16."""
    try:
        from transformers import HubertConfig, HubertModel
    except ImportError as error:
        raise AbsentError(f"{error.name or 'transformers'} is not installed") from None
    from mert.weights.formats import names, to_huggingface

    theirs = HubertModel(HubertConfig(**to_huggingface(model.config), attn_implementation="sdpa")).eval()
    keys = names(model.config, "huggingface")
    theirs.load_state_dict({keys[name]: tensor for name, tensor in model.state_dict().items()})
    return theirs.requires_grad_(False).to(device, torch.bfloat16)


def random_model(name: str, scale: Scale) -> Mert:
    torch.manual_seed(0)
    return Mert(scale.sizes[name].config).eval().requires_grad_(False).to(scale.device)


@torch.inference_mode()
def embedding(name: str, scale: Scale) -> Iterator[Row]:
    """All hidden states of a batch of windows, in float32 and bfloat16; then one layer, from and to the CPU."""
    model = random_model(name, scale)
    window_s = model.config.window_s
    wave_BN, audio_s = noise(scale.batch, window_s, scale.device), scale.batch * window_s
    flops = flops_of(lambda: model(wave_BN[:1])) * scale.batch
    states: dict[str, list[torch.Tensor]] = {}
    for dtype in ("float32", "bfloat16"):
        fast, row = FastMert(model, getattr(torch, dtype)), {}
        with whole_float32(scale.device), memory(scale, row):
            seconds = seconds_of(partial(fast, wave_BN), scale)
            states[dtype] = fast(wave_BN[:4])
        yield rate_row(f"{name}, {dtype}", seconds, flops, scale, audio_s_per_s=audio_s / seconds, **row)
    pairs = zip(states["float32"], states["bfloat16"], strict=True)
    cosines = [float(torch.cosine_similarity(a.float(), b.float(), dim=2).mean()) for a, b in pairs]
    yield {"what": f"{name}, bfloat16 against float32", "worst_layer_cosine": min(cosines)}
    runner, waves = Runner(model, scale.device), list(wave_BN.cpu().numpy())
    seconds = seconds_of(lambda: list(runner.states(waves, "bfloat16", [model.config.n_layers])), scale)
    yield {"what": f"{name}, bfloat16, last layer to the CPU", "seconds": seconds, "audio_s_per_s": audio_s / seconds}


@torch.inference_mode()
def published_class(name: str, compiled: bool, scale: Scale) -> Iterator[Row]:
    """The same windows by the published class."""
    model = random_model(name, scale)
    theirs = published(model, scale.device)
    call = torch.compile(theirs, dynamic=False) if compiled and scale.compiles else theirs
    wave_BN = noise(scale.batch, model.config.window_s, scale.device)
    flops = flops_of(lambda: model(wave_BN[:1])) * scale.batch
    wave_BN, row = wave_BN.bfloat16(), {}
    with memory(scale, row):
        seconds = seconds_of(lambda: call(wave_BN, output_hidden_states=True), scale)
    audio_s_per_s = scale.batch * model.config.window_s / seconds
    form = "SDPA, bfloat16" + (", compiled" if compiled else "")
    yield rate_row(f"{name}, {form}", seconds, flops, scale, audio_s_per_s=audio_s_per_s, **row)


class GivenCodes(Teacher):
    """Random codes at no cost, as a label store gives them."""

    name, n_classes = "given", (1024,) * 8

    def __init__(self, n_clips: int, n_frames: int, device: torch.device) -> None:
        super().__init__({}, {})
        generator = torch.Generator().manual_seed(0)
        self.codes_BKT = torch.randint(0, 1024, (n_clips, 8, n_frames), generator=generator).to(device)

    def targets(self, wave_BN: torch.Tensor) -> Targets:
        return Targets(self.codes_BKT[: len(wave_BN)], None, self.rate_hz, self.fingerprint)


class InMemory:
    """A corpus of noise in memory: what reading costs at least."""

    rate_hz, fingerprint, licences = RATE, "noise", ()

    def __init__(self, n: int, seconds: float) -> None:
        self.waves_BN = noise(n, seconds, torch.device("cpu")).numpy()
        self.lengths = np.full(n, self.waves_BN.shape[1], np.int64)

    def __len__(self) -> int:
        return len(self.waves_BN)

    def name(self, index: int) -> str:
        return str(index)

    def n_samples(self, index: int) -> int:
        return int(self.lengths[index])

    def read(self, index: int, start: int, n_samples: int) -> np.ndarray:
        return self.waves_BN[index, start : start + n_samples]


@contextmanager
def engine_of(
    size: Size, scale: Scale, corpus: Any = None, compiled: bool = False, names: tuple[str, ...] = ("given", "cqt")
) -> Iterator[Any]:
    """An engine that trains this size in bfloat16 on noise, with given codes and the constant-Q transform."""
    from mert.train.engine import Engine
    from mert.train.parallel import World
    from mert.train.recipe import Recipe
    from teachers.cqt import CqtTeacher

    n_clips, n_frames = size.group_clips, round(size.clip_s * RATE / 320)
    known = {"given": GivenCodes(n_clips, n_frames, scale.device), "cqt": CqtTeacher()}
    teachers: Any = {name: known[name] for name in names}
    with tempfile.TemporaryDirectory() as out:
        recipe = Recipe(
            model=replace(size.config, layer_drop=0.0), teachers=names, out=out, clip_s=size.clip_s,
            batch_clips=n_clips * scale.n_groups, group_clips=n_clips, extra_classes=4, validate_clips=0,
            dtype="bfloat16", compile=compiled and scale.compiles, **size.recipe,
        )  # fmt: skip
        corpus = corpus or InMemory(recipe.batch_clips, size.clip_s)
        yield Engine(recipe, corpus, teachers, World(0, 1, scale.device))


def training(name: str, compiled: bool, scale: Scale) -> Iterator[Row]:
    """One update: batch, forward, backward, clipping and AdamW."""
    with engine_of(scale.sizes[name], scale, compiled=compiled) as engine:
        steps, row = count(1), {}
        # Counted without the compiler, which hides operations.
        with torch.compiler.set_stance("force_eager"):
            flops = flops_of(lambda: engine.step(next(steps)))
        with memory(scale, row):
            seconds = seconds_of(lambda: engine.step(next(steps)), scale)
        n_clips = engine.recipe.batch_clips
        what = f"{name}, {n_clips} clips of {engine.recipe.clip_s:g} s" + (", compiled" if compiled else "")
        yield rate_row(what, seconds, flops, scale, clips_per_s=n_clips / seconds, **row)


def teachers_of(scale: Scale) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Teachers whose weights are random, which cost what fitted ones cost."""
    from teachers.cqt import CqtTeacher
    from teachers.encodec import EncodecTeacher
    from teachers.mel_rvq import MelRvqTeacher
    from teachers.random_projection import RandomProjectionTeacher
    from teachers.spectral import Spectral

    def mel_rvq() -> Any:
        weights = {"mean": torch.zeros(128), "std": torch.ones(128), "codebooks": torch.randn(8, 1024, 128)}
        return MelRvqTeacher(Spectral("mel"), weights)

    yield "cqt", CqtTeacher
    yield "mel_rvq", mel_rvq
    yield "random_projection", RandomProjectionTeacher.seeded
    yield "encodec", lambda: EncodecTeacher.random(**scale.encodec)


def targets(scale: Scale) -> Iterator[Row]:
    """Targets of a group of clips on the device, and codes of a minute in one go, as `mert tokenize` computes them."""
    from teachers.base import CodeTeacher, TeacherError

    size = next(iter(scale.sizes.values()))
    wave_BN = noise(size.group_clips, size.clip_s, scale.device)
    minute_N = noise(1, 2 * scale.file_s, torch.device("cpu"))[0].numpy()
    for name, make in teachers_of(scale):
        try:
            teacher = make()
        except TeacherError as error:
            yield {"what": name, "skipped": str(error)}
            continue
        seconds = seconds_of(partial(teacher.targets, wave_BN), scale)
        yield {"what": f"{name}, {len(wave_BN)} clips", "seconds": seconds, "clips_per_s": len(wave_BN) / seconds}
        if isinstance(teacher, CodeTeacher):
            codes = partial(teacher.recording_codes, lambda start, n: minute_N[start : start + n])
            seconds = seconds_of(partial(codes, len(minute_N), scale.device), scale)
            audio_s = len(minute_N) / RATE
            yield {"what": f"{name}, a recording of {audio_s:g} s", "seconds": seconds,
                   "audio_s_per_s": audio_s / seconds}  # fmt: skip


def loading(scale: Scale) -> Iterator[Row]:
    """Groups by one process: from memory (masks, mixing and the way to the device), and from WAV files."""
    import soundfile

    from mert.train.corpus.opening import open_corpus

    size = next(iter(scale.sizes.values()))
    with tempfile.TemporaryDirectory() as folder:
        for i, wave_N in enumerate(noise(scale.n_files, scale.file_s, torch.device("cpu")).numpy()):
            soundfile.write(Path(folder) / f"{i:03d}.wav", wave_N, RATE)
        corpora = {
            "memory": InMemory(scale.n_files, scale.file_s),
            f"WAV files of {scale.file_s:g} s": open_corpus(folder, RATE, RATE, {}),
        }
        for source, corpus in corpora.items():
            with engine_of(size, scale, corpus, names=("given",)) as engine:
                group, steps = engine.batches.group, count(1)
                seconds = seconds_of(lambda group=group, steps=steps: group(next(steps), 0), scale)
            yield {"what": f"groups from {source}", "seconds": seconds, "clips_per_s": size.group_clips / seconds}


def sections(scale: Scale) -> dict[str, Section]:
    """What is measured, the most wanted first: the rest is what a small budget leaves out."""
    names, small = list(scale.sizes), next(iter(scale.sizes))
    return {
        "matrix products": products,
        **{f"embedding {name}": partial(embedding, name) for name in names},
        **{f"embedding {name}, published class": partial(published_class, name, False) for name in names},
        **{f"training step {name}": partial(training, name, False) for name in names},
        "teachers": targets,
        "loader": loading,
        f"training step {small}, compiled": partial(training, small, True),
        **{f"embedding {name}, published class compiled": partial(published_class, name, True) for name in names},
    }


def measured(section: Section, scale: Scale, left_s: float) -> Row:
    """The rows of a section, how it ended, and its seconds."""
    rows: list[Row] = []
    status, start = "done", time.perf_counter()
    try:
        with within(left_s):
            for row in section(scale):
                rows.append(row)
    except OutOfTimeError:
        status = "cut: the budget is used up"
    except AbsentError as error:
        status = f"skipped: {error}"
    except ImportError as error:
        status = f"skipped: {error.name} cannot be imported"
    except Exception as error:  # the other sections are worth as much
        traceback.print_exc()
        status = f"failed: {type(error).__name__}: {error}"
    if scale.device.type == "cuda":
        torch.cuda.empty_cache()
    return {"status": status, "seconds": time.perf_counter() - start, "rows": rows}


FORMS = {
    "audio_s_per_s": "{:,.0f} s of audio a second", "clips_per_s": "{:,.1f} clips a second", "tflops": "{:.1f} TFLOP/s",
    "mfu": "MFU {:.1%}", "peak_gib": "{:.1f} GiB", "worst_layer_cosine": "cosine {:.6f} in the worst layer",
    "skipped": "skipped: {}",
}  # fmt: skip


def table(results: Row) -> str:
    """The results as Markdown."""
    lines = [f"# {named(results['machine'])}", "", "| section | what | measured | a call |", "|---|---|---|---|"]
    for name, section in results["sections"].items():
        rows = section["rows"] if section["status"] == "done" else [*section["rows"], {"what": section["status"]}]
        for row in rows:
            shown = ", ".join(form.format(row[key]) for key, form in FORMS.items() if key in row)
            seconds = f"{1e3 * row['seconds']:.1f} ms" if "seconds" in row else ""
            lines.append(f"| {name} | {row['what']} | {shown} | {seconds} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("bench_out/gpu.json"), help="the table is OUT with .md")
    parser.add_argument("--budget-s", type=float, default=450.0, help="seconds for everything")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tiny", action="store_true")
    asked = parser.parse_args()
    start, device = time.perf_counter(), torch.device(asked.device)
    scale = tiny(device) if asked.tiny else whole(device)
    results: Row = {"machine": machine(), "budget_s": asked.budget_s, "tiny": asked.tiny, "sections": {}}
    for name, section in sections(scale).items():
        left_s = asked.budget_s - (time.perf_counter() - start)
        results["sections"][name] = outcome = measured(section, scale, left_s)
        print(f"{name}: {outcome['status']}, {outcome['seconds']:.1f} s", flush=True)
        keep(results, asked.out)
    print(table(results), end="")
    return int(any(section["status"].startswith("failed") for section in results["sections"].values()))


def keep(results: Row, path: Path) -> None:
    """Write both files, each of which is complete at any moment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".partial")
    for target, text in ((path, json.dumps(results, indent=1) + "\n"), (path.with_suffix(".md"), table(results))):
        aside.write_text(text, encoding="utf-8")
        os.replace(aside, target)


if __name__ == "__main__":
    sys.exit(main())
