"""Probes: small heads on frozen features, their sweep, fit, metrics and saved forms."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

# Where each public name lives; imported when first used, so that `mert --help` does not wait for torch.
_HOMES = dict.fromkeys(("Encoder", "EncoderFacts", "load_encoder"), "probes.encoders")
_HOMES["SavedHead"] = "mert.describe.head"

__all__ = ["Encoder", "EncoderFacts", "SavedHead", "load_encoder"]

if TYPE_CHECKING:
    from mert.describe.head import SavedHead
    from probes.encoders import Encoder, EncoderFacts, load_encoder


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
