"""Checkpoints of a run: written aside, complete only with their marker, and checked before they are trusted.

`ckpt/step_00000200/` holds what torch.distributed.checkpoint writes, and `COMPLETE.json`, written last: the state that
is no tensor, and size and SHA-256 of every file.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

from mert.errors import CheckpointError, OutputError
from mert.files import read_json, sha256_file, write_json
from mert.train.parallel import World

log = logging.getLogger("mert")
MARKER = "COMPLETE.json"


class Checkpoints:
    """The checkpoints of one run folder; all processes of a run call its methods together."""

    def __init__(self, folder: Path, world: World, keep: int) -> None:
        self.folder, self.world, self.keep = folder / "ckpt", world, keep

    def save(self, step: int, module: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> Path:
        """Write a checkpoint and, once it is complete, keep it and the newest before it, `keep` in all.

        OutputError where the disk refuses; what was written is removed then, and older checkpoints stay.
        """
        path = self.folder / f"step_{step:08d}"
        try:
            self._write(path, module, optimizer)
            if self.world.rank == 0:
                files = {file.name: [file.stat().st_size, sha256_file(file)] for file in sorted(path.iterdir())}
                write_json(path / MARKER, {"step": step, "state": state, "files": files})
        except (OSError, OutputError, dcp.api.CheckpointException) as error:
            if self.world.rank == 0:
                shutil.rmtree(path, ignore_errors=True)
            remedy = "check permissions and free space; the same command goes on from the newest checkpoint"
            raise OutputError(path, f"cannot be written ({cause(error)})", remedy) from error
        if self.world.rank == 0:
            self._forget(path)
        self.world.barrier()
        return path

    def _write(self, path: Path, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        if self.world.rank == 0:
            shutil.rmtree(path, ignore_errors=True)  # what an earlier attempt left
            path.mkdir(parents=True)
        self.world.barrier()
        weights, moments = get_state_dict(module, optimizer)
        dcp.save({"model": weights, "optimizer": moments}, checkpoint_id=path)
        self.world.barrier()

    def _forget(self, newest: Path) -> None:
        """Remove older checkpoints, what kills left half written, and steps that this run has not come to yet.

        The last are damaged, or of a run that was begun anew: a later resume must not take them.
        """
        kept = [path for path in self.complete() if path <= newest][-self.keep :]
        for old in set(self.folder.glob("step_*")) - set(kept):
            if old > newest:
                log.warning("%s is removed: the run went on from an earlier step", old)
            (old / MARKER).unlink(missing_ok=True)
            shutil.rmtree(old)

    def complete(self) -> list[Path]:
        """Folders with a marker, oldest first."""
        return sorted(marker.parent for marker in self.folder.glob(f"step_*/{MARKER}"))

    def newest(self) -> Path | None:
        """The newest checkpoint whose files are what its marker says; a warning names those that are not."""
        for path in reversed(self.complete()):
            wrong = damage(path)
            if wrong is None:
                return path
            log.warning("%s: %s; an older checkpoint is used", path, wrong)
        return None

    def load(self, path: Path, module: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[int, dict[str, Any]]:
        """Restore weights and moments, at any number of processes; returns the step and the rest of the state.

        Learning rate, betas, eps and weight decay stay those of the optimizer's own recipe.
        """
        own = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
        weights, moments = get_state_dict(module, optimizer)
        found: dict[str, Any] = {"model": weights, "optimizer": moments}
        try:
            dcp.load(found, checkpoint_id=path)
        except (RuntimeError, dcp.api.CheckpointException) as error:
            raise CheckpointError(path, f"does not fit this recipe ({error})", "resume with its own recipe") from error
        set_state_dict(module, optimizer, model_state_dict=found["model"], optim_state_dict=found["optimizer"])
        for group, settings in zip(optimizer.param_groups, own, strict=True):
            group.update(settings)
        marker = read_json(path / MARKER)
        return int(marker["step"]), dict(marker["state"])


def begin_moments(module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """AdamW's state of every parameter from the start: else a layer dropped so far has none, and does not load."""
    for parameter in module.parameters():
        optimizer.state[parameter] = {
            "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
            "exp_avg": torch.zeros_like(parameter), "exp_avg_sq": torch.zeros_like(parameter),
        }  # fmt: skip


def cause(error: BaseException) -> str:
    """The first reason for a save that failed, on whichever process."""
    if isinstance(error, dcp.api.CheckpointException):
        error = next(iter(error.failures.values()))[0]
    return getattr(error, "strerror", None) or str(error).partition("\n")[0] or type(error).__name__


def damage(path: Path) -> str | None:
    """What is wrong with the files of a complete checkpoint; None if nothing is."""
    try:
        files = read_json(path / MARKER)["files"]
    except (CheckpointError, KeyError) as error:
        return f"its marker cannot be read ({error})"
    for name, (size, sha256) in files.items():
        file = path / name
        if not file.is_file() or file.stat().st_size != size:
            return f"{name} is missing or cut off"
        if sha256_file(file) != sha256:
            return f"{name} is damaged"
    return None
