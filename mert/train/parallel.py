"""One process or many: the process group that `torchrun` starts, and a model parallelized over it by DDP or FSDP."""

import os
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Self

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.parallel import DistributedDataParallel

from mert.errors import UsageError
from mert.train.objective import Pretrainer


def own_device() -> torch.device:
    """The GPU of this process, of those that `torchrun` counts on its machine; the CPU without GPUs."""
    return (
        torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if torch.cuda.is_available() else torch.device("cpu")
    )


@dataclass(frozen=True)
class World:
    """The processes of a run as one of them sees it: `rank` of `size`, on `device`."""

    rank: int
    size: int
    device: torch.device

    @classmethod
    def join(cls) -> Self:
        """Join the group that `torchrun` describes in the environment; without it, a world of one process."""
        device = own_device()
        if "WORLD_SIZE" not in os.environ:
            return cls(0, 1, device)
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        return cls(dist.get_rank(), dist.get_world_size(), device)

    def leave(self) -> None:
        """Leave the group.

        The threads of the group need the interpreter lock to release their last tensors. The last owner of the group
        (DDP) waits for them while it holds that lock, so on a busy machine a process never ended. The pause avoids it.
        """
        if dist.is_initialized():
            time.sleep(0.2)
            dist.destroy_process_group()

    def share(self, n_groups: int) -> range:
        """The groups of a batch that this process computes, in order; UsageError unless all get equally many."""
        if n_groups % self.size:
            remedy = f"use a divisor of {n_groups} processes"
            raise UsageError(f"{self.size} processes", f"cannot share {n_groups} groups evenly", remedy)
        each = n_groups // self.size
        return range(self.rank * each, (self.rank + 1) * each)

    def total(self, values: Tensor) -> Tensor:
        """Sum over all processes."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.size > 1:
            dist.barrier()


def parallelize(objective: Pretrainer, world: World, parallel: str) -> nn.Module:
    """The objective wrapped by DDP ("ddp") or sharded by FSDP2 ("fsdp"); as it is for one process."""
    objective.to(world.device)
    if world.size == 1:
        return objective
    if parallel == "fsdp":
        for block in objective.model.encoder.blocks:
            fully_shard(block)
        fully_shard(objective)
        return objective
    # The mask embedding and dropped layers may be left out of a step.
    return DistributedDataParallel(objective, find_unused_parameters=objective.model.config.layer_drop > 0)


def sync_gradients(module: nn.Module, last: bool) -> AbstractContextManager[object]:
    """A context for the forward pass of a micro-step: gradients are exchanged after the `last` one only."""
    if isinstance(module, FSDPModule):
        module.set_requires_gradient_sync(last)
    elif isinstance(module, DistributedDataParallel) and not last:
        return module.no_sync()
    return nullcontext()
