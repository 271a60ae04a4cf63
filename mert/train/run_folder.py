"""The folder of a run: its records (metrics, curves, TensorBoard), and the model that it is exported to."""

import json
import logging
import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint.metadata as dcp_metadata
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mert.embedding.embedder import Embedder
from mert.errors import CheckpointError, OutputError, need
from mert.files import only_process, read_json, read_rows, write_whole, writing
from mert.models.config import MertConfig
from mert.models.mert import Mert
from mert.train.checkpoints import MARKER, Checkpoints, Reader, load_state
from mert.train.history import CHANGES, RECIPE, Change, begun_recipe, read_changes, record_start
from mert.train.ingredients import licences_of
from mert.train.parallel import World
from mert.train.recipe import Recipe
from mert.train.validation import accuracies, most_frequent, percent
from mert.weights.checkpoints import digest
from mert.weights.licences import named, strictest
from mert.weights.publish import save_pretrained
from mert.weights.registry import ModelInfo

log = logging.getLogger("mert")
LINE_S = 30.0  # between the lines of a run in a log file


@contextmanager
def only_run(folder: Path, world_rank: int) -> Iterator[None]:
    """UsageError if another run trains into this folder, on any machine that shares the disk."""
    if world_rank != 0:
        yield
        return
    with only_process(folder, ".lock", "another run trains into it"):
        yield


class RunLog:
    """The history, metrics.jsonl, TensorBoard, curves.png and the progress bar of a run, written by its first process.

    At a resume, rows of steps after the checkpoint are dropped: those steps are trained again.
    """

    def __init__(self, recipe: Recipe, resumed_step: int, changes: Sequence[Change], world: World) -> None:
        tensorboard = need("torch.utils.tensorboard", "train", "mert pretrain")
        self.folder = Path(recipe.out)
        record_start(recipe, resumed_step, changes, world)
        self._metrics = self.folder / "metrics.jsonl"
        kept = [row for row in read_rows(self._metrics) if row["step"] <= resumed_step]
        with write_whole(self._metrics) as temporary:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in kept))
        self._lines = open(self._metrics, "a", encoding="utf-8")  # noqa: SIM115
        with writing(self.folder / "tensorboard"):
            self._board = tensorboard.SummaryWriter(str(self.folder / "tensorboard"), purge_step=resumed_step + 1)
        description = TextColumn("{task.description}")
        self._progress = Progress(BarColumn(), MofNCompleteColumn(), description, TimeRemainingColumn())
        self._task = self._progress.add_task("starting", total=recipe.steps, completed=resumed_step)
        self._held_out: dict[str, float] = {}  # the shares of the most frequent codes
        self._printed_s = -math.inf  # when a line was printed where there is no bar
        self._progress.start()

    def write_row(self, row: dict[str, Any]) -> None:
        """Record one step; OutputError if the disk refuses."""
        with writing(self._metrics):
            self._lines.write(json.dumps(row) + "\n")
            self._lines.flush()
        with writing(self.folder / "tensorboard"):
            for name, value in row.items():
                if name != "step" and isinstance(value, int | float) and math.isfinite(value):
                    self._board.add_scalar(name, value, row["step"])
        self._held_out |= {name.removeprefix("valid/"): row[name] for name in row if "/most_frequent_" in name}
        codes = []
        for name, shares in accuracies(row, "right").items():
            frequent = most_frequent(self._held_out, name)
            codes.append(
                f"{name} {percent(shares)} right" + (f" (most frequent code {percent(frequent)})" if frequent else "")
            )
        parts = [f"loss {row['loss']:.3f}", *codes, f"{row.get('seconds', 0):.2f} s per step"]
        description = ", ".join(parts)
        self._progress.update(self._task, completed=row["step"], description=description)
        if not self._progress.console.is_terminal and time.monotonic() - self._printed_s > LINE_S:
            self._printed_s = time.monotonic()
            task = self._progress.tasks[self._task]
            left = f", {task.time_remaining / 60:.0f} min left" if task.time_remaining else ""
            self.print(f"step {row['step']} of {task.total:.0f}: {description}{left}")

    def print(self, text: str) -> None:
        """Print a line above the progress bar."""
        self._progress.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def close(self) -> None:
        """Draw the curves and close all files. The rows are already on disk, so a full disk is only a warning here."""
        self._progress.stop()
        for end in (self._lines.close, self._board.close, self._draw):
            try:
                end()
            except (OSError, OutputError) as error:
                log.warning("the records in %s could not be closed: %s", self.folder, error)

    def _draw(self) -> None:
        if rows := read_rows(self._metrics):
            from mert.plots import plot_curves, save_axes

            save_axes(plot_curves(rows, self.folder.name)[0], self.folder / "curves.png")


def load_newest(model: Mert, run: Path) -> dict[str, Any]:
    """Load the weights of the newest checkpoint of our engine; returns its marker. CheckpointError if there is none."""
    if (path := Checkpoints(run, World(0, 1, torch.device("cpu")), 1).newest()) is None:
        raise CheckpointError(run, "has no complete checkpoint", "train it further: mert pretrain")
    weights = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    load_state(path, {"model": weights}, alone=True)
    model.load_state_dict({name.removeprefix("model."): tensor for name, tensor in weights.items()})
    return read_json(path / MARKER)


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a training run."""
    return (folder / "recipe.yaml").exists() and not (folder / "config.json").exists()


def read_heads(run: Path) -> dict[str, dict[str, torch.Tensor]]:
    """The tensors of the heads in the newest checkpoint of our engine, by teacher; none without a checkpoint."""
    if (path := Checkpoints(run, World(0, 1, torch.device("cpu")), 1).newest()) is None:
        return {}
    kinds = ("model.code_heads.", "model.frame_heads.", "model.clip_heads.")
    n_bytes = sum(file.stat().st_size for file in path.iterdir())
    heads: dict[str, torch.Tensor] = {}
    for name, about in Reader(path).read_metadata().state_dict_metadata.items():
        if name.startswith(kinds) and isinstance(about, dcp_metadata.TensorStorageMetadata):
            if about.size.numel() > n_bytes:
                raise CheckpointError(path, f"{name} is larger than the checkpoint", "use another checkpoint")
            heads[name.removeprefix("model.")] = torch.empty(about.size)
    load_state(path, {"model": heads}, alone=True)
    found: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in heads.items():
        _, teacher, key = name.split(".", 2)
        found.setdefault(teacher, {})[key] = tensor
    return found


def recipe_of(run: Path) -> Recipe:
    """The recipe that a run follows by now; CheckpointError for a folder without one."""
    if (recipe := begun_recipe(run)) is None:
        raise CheckpointError(run, "holds no recipe.yaml", "name the folder of a run (out=)")
    return recipe


def trained_config(recipe: Recipe) -> MertConfig:
    """The configuration of a trained model: its window is the context of training."""
    return replace(recipe.model, window_s=recipe.clip_s)


def export_run(
    run: Path, out: Path, half: bool = False, load: Callable[[Mert, Path], dict[str, Any]] = load_newest
) -> Path:
    """Write config, safetensors, golden states, card, curves and metrics of a run; returns the folder.

    `load` fills a model with the newest weights of the run, and returns the step and the facts of the run (`state`).
    CheckpointError if it has no complete checkpoint. The model has the strictest licence of its base, its teachers and
    its data.
    """
    recipe = recipe_of(run)
    model = Mert(trained_config(recipe))
    marker = load(model, run)
    licence = strictest(licence for _, licence in licences_of(marker["state"]))
    info = ModelInfo.of(model, out.resolve().name, licence=licence)
    rows = [row for row in read_rows(run / "metrics.jsonl") if row["step"] <= marker["step"]]
    info = replace(info, note=training_note(recipe, marker, rows, read_changes(run)))
    save_pretrained(Embedder(model, info, digest(model), "cpu"), out, half=half)
    for name in ("curves.png", "metrics.jsonl", RECIPE, CHANGES):
        if (run / name).exists():
            shutil.copyfile(run / name, out / name)
    return out


def training_note(recipe: Recipe, marker: dict[str, Any], rows: list[dict[str, Any]], changes: Sequence[Change]) -> str:
    """One line for the model card: data, teachers, base, steps, changes on the way, restrictions, held-out loss."""
    synthetic = ", synthesised music" if recipe.data == "synth" else ""
    hours = marker["step"] * recipe.batch_clips * recipe.clip_s / 3600
    teachers = ", ".join(f"{name} {fingerprint[:12]}" for name, fingerprint in marker["state"]["teachers"].items())
    text = (
        f"trained by mert pretrain: {marker['step']} of {recipe.steps} steps, {hours:.1f} h of audio from "
        f"{Path(recipe.data).name}{synthetic} (corpus {marker['state']['corpus'][:12]}); teachers {teachers}"
    )
    if base := marker["state"].get("base"):
        text += f"; it went on from {base['name']} (sha256 {base['sha256'][:12]})"
    if restricting := named(licences_of(marker["state"])):
        text += f"; licence bound by {restricting}"
    for change in changes:
        text += f"; after step {change.step} {change}"
    held_out = [row for row in rows if "valid/loss" in row]
    return text + (f"; held-out loss {held_out[-1]['valid/loss']:.3f}" if held_out else "")
