"""MERT music representations: `mert.load(name).embed("song.mp3")`."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Where each public name lives; imported when first used, so that `mert --help` does not wait for torch.
_HOMES = {
    "load": "mert.hub",
    "push_to_hub": "mert.hub",
    "list_models": "mert.registry",
    "info": "mert.registry",
    "ModelInfo": "mert.registry",
    "save_pretrained": "mert.publish",
    "verify": "mert.publish",
    "Embedder": "mert.embed",
    "random_model": "mert.embed",
    "Features": "mert.features",
    "similarity": "mert.similar",
    "Index": "mert.similar",
    "Mert": "mert.model",
    "MertConfig": "mert.config",
    "MertError": "mert.errors",
    "AudioError": "mert.errors",
    "CheckpointError": "mert.errors",
    "OutputError": "mert.errors",
}

__all__ = ["__version__", *_HOMES]

if TYPE_CHECKING:
    from mert.config import MertConfig as MertConfig
    from mert.embed import Embedder as Embedder
    from mert.embed import random_model as random_model
    from mert.errors import AudioError as AudioError
    from mert.errors import CheckpointError as CheckpointError
    from mert.errors import MertError as MertError
    from mert.errors import OutputError as OutputError
    from mert.features import Features as Features
    from mert.hub import load as load
    from mert.hub import push_to_hub as push_to_hub
    from mert.model import Mert as Mert
    from mert.publish import save_pretrained as save_pretrained
    from mert.publish import verify as verify
    from mert.registry import ModelInfo as ModelInfo
    from mert.registry import info as info
    from mert.registry import list_models as list_models
    from mert.similar import Index as Index
    from mert.similar import similarity as similarity


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'mert' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
