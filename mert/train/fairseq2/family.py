"""Mert as model families of fairseq2: `mert`, and `mert_pretrainer` with its prediction heads.

fairseq2 calls `register` by itself wherever mert-hub is installed (entry point `fairseq2.extension`).
"""

from typing import Any

import soundfile  # noqa: F401 - first: fairseq2 needs the libsndfile that it loads
import torch

# isort: split
import fairseq2.recipe.base  # noqa: F401 - second: other first imports of fairseq2 0.8.1 are circular
from fairseq2.composition import register_model_family
from fairseq2.models import ModelFamily
from fairseq2.nn.fsdp import FSDPWrapper
from fairseq2.runtime.config_registry import ConfigRegistrar
from fairseq2.runtime.dependency import DependencyContainer
from torch import nn

from mert.models.config import MertConfig, base_95m, large_330m, nano
from mert.models.mert import Mert
from mert.train.fairseq2.asset_card import FAMILY
from mert.train.fairseq2.checkpoints import load_run
from mert.train.ingredients import keyed
from mert.train.initialisation import PretrainerConfig, new_pretrainer
from mert.train.objective import Pretrainer, recompute_blocks
from mert.train.start import open_start
from teachers import load_teacher

PRETRAINER = "mert_pretrainer"


def register(container: DependencyContainer) -> None:
    """Register both families with fairseq2; a second call does nothing."""
    families: Any = ModelFamily  # mypy accepts no abstract class as type[T]
    if FAMILY in container.iter_keys(families):
        return
    hooks: Any = {"fsdp_applier": shard_blocks, "layerwise_ac_applier": recompute, "compiler": compile_blocks}
    register_model_family(container, FAMILY, Mert, MertConfig, factory=Mert, **hooks)
    for name, config in {"nano": nano, "base_95m": base_95m, "large_330m": large_330m}.items():
        ConfigRegistrar(container, MertConfig)(name)(config)
    register_model_family(
        container, PRETRAINER, Pretrainer, PretrainerConfig, factory=pretrainer, supports_meta=False, **hooks
    )


def pretrainer(config: PretrainerConfig) -> Pretrainer:
    """The objective with the initial weights of our own engine, on torch's default device."""
    device = torch.get_default_device()
    with torch.device("cpu"):  # where our engine draws them
        teachers = keyed(map(load_teacher, config.codebook_start))
        start = open_start(config.init, load_run) if config.init else None
        objective = new_pretrainer(config, {name: teacher.codebooks() for name, teacher in teachers.items()}, start)
    return objective.to(device)


def shard_blocks(model: nn.Module, granularity: str, wrapper: FSDPWrapper) -> nn.Module:
    """FSDP over each block ("layer") or over the encoder ("stack"); fairseq2 wraps the rest."""
    encoder = mert_of(model).encoder
    for module in [encoder] if granularity == "stack" else encoder.blocks:
        wrapper(module)
    return model


def recompute(model: nn.Module, every_nth_layer: int) -> nn.Module:
    """Activation checkpointing."""
    recompute_blocks(mert_of(model), every_nth_layer)
    return model


def compile_blocks(model: nn.Module, *args: Any, **kwargs: Any) -> None:
    """torch.compile, block by block."""
    for block in mert_of(model).encoder.blocks:
        block.compile(*args, **kwargs)


def mert_of(model: nn.Module) -> Mert:
    """The Mert, with or without heads around it."""
    inner = model.model if isinstance(model, Pretrainer) else model
    assert isinstance(inner, Mert)
    return inner
