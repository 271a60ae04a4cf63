"""The folder of a run: its checkpoints, its records (metrics, curves, TensorBoard), and the model it is exported to.

`ckpt/step_00000200/` holds what torch.distributed.checkpoint writes, and `COMPLETE.json`, written last: the state that
is not a tensor, and size and SHA-256 of every file. A checkpoint without this marker is incomplete and never loaded.
torch reads these files as unrestricted pickles, which run any code in them, so they are read here by our own reader.
"""

import io
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
import torch.distributed.checkpoint as dcp
import torch.distributed.checkpoint.filesystem as dcp_files
import torch.distributed.checkpoint.metadata as dcp_metadata
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn
from torch.distributed.checkpoint.planner import LoadItemType, LoadPlan, LoadPlanner, ReadItem
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.futures import Future

from mert.embedding.embedder import Embedder
from mert.errors import CheckpointError, OutputError, need
from mert.files import only_process, read_json, read_rows, sha256_file, write_json, write_whole, writing
from mert.models.config import MertConfig
from mert.models.mert import Mert
from mert.train.history import CHANGES, RECIPE, Change, begun_recipe, read_changes, record_start
from mert.train.ingredients import licences_of
from mert.train.parallel import World
from mert.train.recipe import Recipe
from mert.train.validation import accuracies, most_frequent, percent
from mert.weights.checkpoints import digest
from mert.weights.licences import named, strictest
from mert.weights.pickles import Key, read_records, read_tensor
from mert.weights.publish import save_pretrained
from mert.weights.registry import ModelInfo

log = logging.getLogger("mert")
MARKER = "COMPLETE.json"
LINE_S = 30.0  # between the lines of a run in a log file
MAX_METADATA_BYTES = 64 * 2**20  # 330M parameters in 64 processes need 8


@contextmanager
def only_run(folder: Path, world_rank: int) -> Iterator[None]:
    """UsageError if another run trains into this folder, on any machine that shares the disk."""
    if world_rank != 0:
        yield
        return
    with only_process(folder, ".lock", "another run trains into it"):
        yield


class Checkpoints:
    """The checkpoints of one run folder; all processes of a run call its methods together."""

    def __init__(self, folder: Path, world: World, keep: int) -> None:
        self.folder, self.world, self.keep = folder / "ckpt", world, keep

    def save(self, step: int, module: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> Path:
        """Write a checkpoint and, once it is complete, remove all but the newest `keep`.

        OutputError if the disk refuses; the incomplete checkpoint is then removed, and older ones stay.
        """
        path = self.folder / f"step_{step:08d}"
        try:
            if self.world.rank == 0:
                shutil.rmtree(path, ignore_errors=True)  # an earlier incomplete attempt
                path.mkdir(parents=True)
            self.world.barrier()
            weights, moments = get_state_dict(module, optimizer)
            dcp.save({"model": weights, "optimizer": moments}, checkpoint_id=path)
            self.world.barrier()
            if self.world.rank == 0:
                files = {file.name: [file.stat().st_size, sha256_file(file)] for file in sorted(path.iterdir())}
                write_json(path / MARKER, {"step": step, "state": state, "files": files})
        except (OSError, OutputError, dcp.api.CheckpointException) as error:
            if self.world.rank == 0:
                shutil.rmtree(path, ignore_errors=True)
            remedy = "check permissions and free space; the same command resumes from the newest checkpoint"
            raise OutputError(path, f"cannot be written ({cause(error)})", remedy) from error
        if self.world.rank == 0:
            self._remove_old(path)
        self.world.barrier()
        return path

    def _remove_old(self, newest: Path) -> None:
        """Remove older checkpoints, incomplete ones, and those of later steps.

        Checkpoints of later steps are damaged, or belong to a run that was started anew: a resume must not take them.
        """
        kept = [path for path in self.complete() if path <= newest][-self.keep :]
        for old in set(self.folder.glob("step_*")) - set(kept):
            if old > newest:
                log.warning("%s is removed: the run resumed from an earlier step", old)
            (old / MARKER).unlink(missing_ok=True)
            shutil.rmtree(old)

    def complete(self) -> list[Path]:
        """Folders with a marker, oldest first."""
        return sorted(marker.parent for marker in self.folder.glob(f"step_*/{MARKER}"))

    def newest(self) -> Path | None:
        """The newest checkpoint whose files match its marker; a warning names each that does not."""
        for path in reversed(self.complete()):
            if (problem := damage(path)) is None:
                return path
            log.warning("%s: %s; an older checkpoint is used", path, problem)
        return None

    def load(self, path: Path, module: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[int, dict[str, Any]]:
        """Restore weights and moments, at any number of processes; returns the step and the rest of the state.

        Learning rate, betas, eps and weight decay stay those of the optimizer's own recipe.
        """
        weights, moments = get_state_dict(module, optimizer)
        _load(path, {"model": weights, "optimizer": moments}, self.world.size == 1)
        set_state_dict(module, optimizer, model_state_dict=weights, optim_state_dict=moments)
        marker = read_json(path / MARKER)
        return int(marker["step"]), dict(marker["state"])


class Planner(dcp.DefaultLoadPlanner):
    """Loads tensors only: what else torch stores of an optimizer are the settings of its recipe."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        pass


class Reader(dcp.FileSystemReader):
    """Reads the files of `dcp.save` without unrestricted pickles; any exception means that they are damaged."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> dcp_metadata.Metadata:
        path = Path(self.path) / ".metadata"
        if path.stat().st_size > MAX_METADATA_BYTES:
            raise ValueError(".metadata is too large")
        metadata = read_records(path.read_bytes(), METADATA_CLASSES)
        if not isinstance(metadata, dcp_metadata.Metadata):
            raise ValueError(".metadata describes no checkpoint")
        metadata.storage_data = {key.index: place for key, place in metadata.storage_data.items()}
        return metadata

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        for item in plan.items:
            if item.type == LoadItemType.BYTE_IO:
                continue
            part = read_tensor(self._bytes(self.storage_data[item.storage_index]))
            for axis, (start, length) in enumerate(zip(item.storage_offsets, item.lengths, strict=True)):
                part = part.narrow(axis, start, length)
            target = planner.resolve_tensor(item).detach()
            target.copy_(part)
            planner.commit_tensor(item, target)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def _bytes(self, place: dcp_files._StorageInfo) -> bytes:
        if Path(place.relative_path).name != place.relative_path or place.transform_descriptors:
            raise ValueError(f"{place.relative_path} is not one of its files")
        with open(Path(self.path) / place.relative_path, "rb") as file:
            file.seek(place.offset)
            return file.read(place.length)


class _Index(Key):
    """A key of `storage_data`, which becomes torch's own kind of key when it is known to be well-formed."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.index = dcp_metadata.MetadataIndex(**state)
        if not isinstance(self.index.fqn, str):
            raise ValueError("a name is no text")


def _layout(name: object) -> torch.layout:
    return torch.strided


def _member(kind: object, name: object) -> object:
    """A memory format, which Python before 3.11.4 pickles as an attribute of its enumeration."""
    if kind is not dcp_metadata._MEM_FORMAT_ENCODING:
        raise ValueError("it asks for an attribute")
    return dcp_metadata._MEM_FORMAT_ENCODING[str(name)]


METADATA_CLASSES = {
    f"{module.__name__}.{name}": getattr(module, name)
    for module, names in {
        dcp_metadata: ("BytesStorageMetadata", "ChunkStorageMetadata", "Metadata", "StorageMeta", "TensorProperties",
                       "TensorStorageMetadata", "_MEM_FORMAT_ENCODING"),
        dcp_files: ("_StorageInfo",),
        torch: ("Size", "bfloat16", "float16", "float32", "float64", "int64", "bool"),
    }.items()
    for name in names
}  # fmt: skip
METADATA_CLASSES |= {
    "torch.serialization._get_layout": _layout, "builtins.getattr": _member,
    f"{dcp_metadata.__name__}.MetadataIndex": _Index,
}  # fmt: skip


def _load(path: Path, state: dict[str, Any], alone: bool) -> None:
    """Fill the tensors of `state` from a checkpoint; CheckpointError if it does not fit, or is damaged."""
    reader = Reader(path)
    try:
        reader.read_metadata()  # torch reads it again, and does not say why it cannot
        dcp.load(state, storage_reader=reader, planner=Planner(), no_dist=alone)
    except (Exception, dcp.api.CheckpointException) as error:  # damaged files have no common type of error
        reason = f"does not fit this recipe, or is damaged ({cause(error)})"
        raise CheckpointError(path, reason, "resume with its own recipe") from error


def step_of(path: Path) -> int:
    """The step of a checkpoint, by its name."""
    return int(path.name.removeprefix("step_"))


def cause(error: BaseException) -> str:
    """The first reason for a failed save or load, on whichever process: the disk's own, where it is known.

    What torch says of a file that it could not close hides that the disk was full.
    """
    if isinstance(error, dcp.api.CheckpointException):
        error = next(iter(error.failures.values()))[0]
    before: BaseException | None = error
    while before:
        if reason := getattr(before, "strerror", None):
            return str(reason)
        before = before.__cause__ or before.__context__
    return str(error).partition("\n")[0] or type(error).__name__


def damage(path: Path) -> str | None:
    """How the files of a checkpoint differ from its marker; None if they do not."""
    try:
        marker = read_json(path / MARKER)
        files = [(str(name), int(size), str(sha256)) for name, (size, sha256) in marker["files"].items()]
        int(marker["step"]), dict(marker["state"])
    except (CheckpointError, KeyError, TypeError, ValueError, AttributeError) as error:
        return f"its marker cannot be read ({error})"
    for name, size, sha256 in files:
        file = path / name
        if not file.is_file() or file.stat().st_size != size:
            return f"{name} is missing or cut off"
        if sha256_file(file) != sha256:
            return f"{name} is damaged"
    return None


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
    _load(path, {"model": weights}, alone=True)
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
    _load(path, {"model": heads}, alone=True)
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
