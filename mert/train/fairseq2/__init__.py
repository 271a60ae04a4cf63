"""Pretraining by fairseq2's trainer, and its asset cards: optional (extra `fairseq2`), with the same losses.

The rest of mert uses only the names below, which are imported when first used: only `pretrain` needs fairseq2.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mert.errors import need

if TYPE_CHECKING:
    from mert.train.fairseq2.asset_card import write_asset_card as write_asset_card
    from mert.train.fairseq2.checkpoints import load_run as load_run
    from mert.train.fairseq2.recipe import pretrain as pretrain

_ROOMS = {"write_asset_card": "asset_card", "load_run": "checkpoints", "pretrain": "recipe"}


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "pretrain":
        import soundfile  # noqa: F401 - first: fairseq2 needs the libsndfile that it loads

        need("fairseq2", "fairseq2", "--engine fairseq2")
    return getattr(import_module(f"{__name__}.{_ROOMS[name]}"), name)
