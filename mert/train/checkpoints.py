"""The checkpoints of a run: saved whole or not at all, checked before they are read, and read without running code.

`ckpt/step_00000200/` holds what torch.distributed.checkpoint writes, and `COMPLETE.json`, written last: the state that
is not a tensor, and size and SHA-256 of every file. A checkpoint without this marker is incomplete and never loaded.
torch reads these files as unrestricted pickles, which run any code in them, so they are read here by our own reader.
"""

import io
import logging
import shutil
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
import torch.distributed.checkpoint.filesystem as dcp_files
import torch.distributed.checkpoint.metadata as dcp_metadata
from torch import nn
from torch.distributed.checkpoint.planner import LoadItemType, LoadPlan, LoadPlanner, ReadItem
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.futures import Future

from mert.errors import CheckpointError, OutputError
from mert.files import read_json, sha256_file, write_json
from mert.train.parallel import World
from mert.weights.pickles import Key, read_records, read_tensor

log = logging.getLogger("mert")
MARKER = "COMPLETE.json"
MAX_METADATA_BYTES = 64 * 2**20  # 330M parameters in 64 processes need 8


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
        """Remove older checkpoints, incomplete ones, and those of later steps, which are damaged."""
        kept = [path for path in self.complete() if path <= newest][-self.keep :]
        for old in set(self.folder.glob("step_*")) - set(kept):
            if old > newest:
                log.warning("%s is removed: the run resumed from an earlier step", old)
            remove(old)

    def remove_all(self) -> None:
        """Remove every checkpoint, as a run that begins anew must not be continued or exported from older ones."""
        if self.world.rank == 0:
            for path in sorted(self.folder.glob("step_*")):
                log.warning("%s is removed: the run begins anew", path)
                remove(path)
        self.world.barrier()

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
        load_state(path, {"model": weights, "optimizer": moments}, self.world.size == 1)
        set_state_dict(module, optimizer, model_state_dict=weights, optim_state_dict=moments)
        marker = read_json(path / MARKER)
        return int(marker["step"]), dict(marker["state"])


def remove(path: Path) -> None:
    """Remove a checkpoint, its marker first: what a kill leaves of it is incomplete."""
    (path / MARKER).unlink(missing_ok=True)
    shutil.rmtree(path)


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


def load_state(path: Path, state: dict[str, Any], alone: bool) -> None:
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
