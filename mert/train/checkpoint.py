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

from mert.errors import CheckpointError
from mert.files import read_json, sha256_file, write_json
from mert.train.parallel import World

log = logging.getLogger("mert")
MARKER = "COMPLETE.json"


class Checkpoints:
    """The checkpoints of one run folder; all processes of a run call its methods together."""

    def __init__(self, folder: Path, world: World, keep: int) -> None:
        self.folder, self.world, self.keep = folder / "ckpt", world, keep

    def save(self, step: int, module: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> Path:
        """Write a checkpoint and, once it is complete, remove all but the newest `keep` complete ones."""
        path = self.folder / f"step_{step:08d}"
        if self.world.rank == 0:
            shutil.rmtree(path, ignore_errors=True)  # what an earlier attempt left, without its marker
            path.mkdir(parents=True)
        self.world.barrier()
        weights, moments = get_state_dict(module, optimizer)
        dcp.save({"model": weights, "optimizer": moments}, checkpoint_id=path)
        self.world.barrier()
        if self.world.rank == 0:
            files = {file.name: [file.stat().st_size, sha256_file(file)] for file in sorted(path.iterdir())}
            write_json(path / MARKER, {"step": step, "state": state, "files": files})
            for old in self.complete()[: -self.keep]:
                (old / MARKER).unlink()
                shutil.rmtree(old)
        self.world.barrier()
        return path

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
        """Restore weights and moments, at any number of processes; returns the step and the rest of the state."""
        weights, moments = get_state_dict(module, optimizer)
        found: dict[str, Any] = {"model": weights, "optimizer": moments}
        try:
            dcp.load(found, checkpoint_id=path)
        except (RuntimeError, dcp.api.CheckpointException) as error:
            raise CheckpointError(path, f"does not fit this recipe ({error})", "resume with its own recipe") from error
        set_state_dict(module, optimizer, model_state_dict=found["model"], optim_state_dict=found["optimizer"])
        marker = read_json(path / MARKER)
        return int(marker["step"]), dict(marker["state"])


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
