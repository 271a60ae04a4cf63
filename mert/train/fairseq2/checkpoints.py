"""Checkpoints written by fairseq2: which of them a run can resume from, and their weights. Needs no fairseq2.

`OUT/checkpoints/step_N/` holds `trainer`, `model`, `optimizer` and `data_reader`; `OUT/fairseq2.json` holds the facts
with which the run began.
"""

import logging
import math
import shutil
import zipfile
from pathlib import Path
from typing import Any

import torch

from mert.errors import CheckpointError, TrainingError, UsageError
from mert.files import read_json, write_json
from mert.models.mert import Mert
from mert.train import run_folder
from mert.train.parallel import World
from mert.train.resume import continued
from mert.weights.pickles import check_plain, open_torch

log = logging.getLogger("mert")
BEGUN = "fairseq2.json"


def is_run(folder: Path) -> bool:
    """Whether a folder holds a run of fairseq2's trainer."""
    return (folder / BEGUN).exists()


def resume_point(out: Path, made_of: dict[str, Any], fixed: dict[str, Any], world: World, resume: bool) -> int:
    """The step of the newest undamaged checkpoint, or 0; damaged ones are moved aside, because fairseq2 stops at them.

    TrainingError if the run is not made of what it was, or if what must stay `fixed` changed: fairseq2 would fail, or
    silently lose part of its state.
    """
    if (out / "ckpt").exists():
        raise UsageError(out, "holds a run of our own engine", "give another out=")
    if world.rank == 0:
        for path in checkpoints(out):
            if reason := damage(path):
                aside = path.with_name(f"{path.name}.damaged")
                log.warning("%s: %s; it is moved to %s, an older one is used", path, reason, aside)
                shutil.rmtree(aside, ignore_errors=True)
                path.rename(aside)
    world.barrier()
    existing = checkpoints(out)
    for file in existing[-1].rglob("*.pt") if existing else ():
        check_plain(file)  # fairseq2 reads it as an unrestricted pickle
    if existing and not resume:
        raise UsageError(out, "holds checkpoints, from which fairseq2 would go on", "give another out=, or remove them")
    begun = read_json(out / BEGUN) if existing else made_of | fixed
    made_of = continued(out / BEGUN, begun, made_of)
    for name, fact in fixed.items():
        if (old := begun.get(name)) != fact:
            was = "is not what it was" if isinstance(fact, dict) else f"is {fact} and was {old}"
            reason = f"{name} {was} when the run began, and fairseq2 cannot change it"
            raise TrainingError(out / BEGUN, reason, "go on as it began, or begin anew with another out=")
    world.barrier()
    if world.rank == 0:
        write_json(out / BEGUN, made_of | fixed)
    return step_of(existing[-1]) if existing else 0


def checkpoints(out: Path) -> list[Path]:
    """Checkpoint folders of fairseq2, oldest first."""
    folders = (path for path in (out / "checkpoints").glob("step_*") if path.name.removeprefix("step_").isdigit())
    return sorted(folders, key=step_of)


def step_of(folder: Path) -> int:
    """The step after which a checkpoint was written."""
    return int(folder.name.removeprefix("step_"))


def damage(folder: Path) -> str | None:
    """What is missing from a checkpoint, or differs from its checksums; None if nothing is."""
    for kind in ("trainer", "model", "optimizer", "data_reader"):
        files = sorted((folder / kind).rglob("*.pt"))
        if not files:
            return f"{kind} is missing"
        for file in files:
            try:
                with zipfile.ZipFile(file) as archive:
                    if archive.testzip():
                        return f"{file.relative_to(folder)} is damaged"
            except (zipfile.BadZipFile, OSError) as error:
                return f"{file.relative_to(folder)} cannot be read ({error})"
    return None


def load_newest(model: Mert, run: Path) -> dict[str, Any]:
    """Load the weights of the newest undamaged checkpoint; returns its step and the facts with which the run began.

    CheckpointError if there is none. FSDP leaves a part of each tensor, cut along its first axis, in each file.
    """
    folder = next((path for path in reversed(checkpoints(run)) if damage(path) is None), None)
    if folder is None:
        raise CheckpointError(run, "has no complete checkpoint", "train it further: mert pretrain --engine fairseq2")
    parts: dict[str, list[torch.Tensor]] = {name: [] for name in model.state_dict()}
    for file in sorted((folder / "model").rglob("sdp_*.pt")):
        with open_torch(file) as source:
            for name, tensors in parts.items():
                if math.prod(source.shapes[f"model.{name}"]):  # the last processes may have an empty part
                    tensors.append(source.read(f"model.{name}"))
    model.load_state_dict({name: torch.cat(tensors) for name, tensors in parts.items()})
    return {"step": step_of(folder), "state": read_json(run / BEGUN)}


def load_run(model: Mert, run: Path) -> dict[str, Any]:
    """Load the newest weights of a run of either engine; returns its step and the facts of the run."""
    return (load_newest if is_run(run) else run_folder.load_newest)(model, run)
