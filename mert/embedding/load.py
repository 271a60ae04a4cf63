"""`mert.load`: an Embedder by the name of its model."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from mert.embedding.embedder import Embedder
from mert.models import config as sizes
from mert.models.mert import Mert
from mert.weights import registry
from mert.weights.checkpoints import digest
from mert.weights.hub import _load_bundled, _load_hub, _load_local, log
from mert.weights.registry import ModelInfo

_licences_shown: set[str] = set()


def load(name_or_dir: str | Path, revision: str | None = None, device: str = "auto") -> Embedder:
    """A ready `Embedder`: from a folder or weights file, a registered name, or any "org/name" on the hub.

    Registered models come at their pinned revision unless `revision` says otherwise. CheckpointError for unknown
    names, failed downloads, wrong hashes, and whatever `read_checkpoint` refuses.
    """
    if bundled := registry.bundled(str(name_or_dir)):
        model, info = _load_bundled(bundled, registry.info(str(name_or_dir)), revision)
    else:
        local = Path(name_or_dir).exists()
        model, info = (_load_local if local else _load_hub)(str(name_or_dir), revision)
    if info.licence != "unknown" and info.name not in _licences_shown:
        _licences_shown.add(info.name)
        restricted = "nc" in info.licence.lower()
        log.log(logging.WARNING if restricted else logging.INFO, "%s: weights under %s", info.name, info.licence)
    return Embedder(model, info, info.sha256 or "", device)


def random_model(size: str = "nano", seed: int = 0) -> Embedder:
    """A MERT of a named size with random weights: untrained, for tests, demonstrations and as a baseline."""
    torch.manual_seed(seed)
    named = {"nano": sizes.nano, "95m": sizes.base_95m, "330m": sizes.large_330m}
    if size not in named:
        raise ValueError(f"size is one of {', '.join(named)}, not {size!r}")
    model = Mert(named[size]())
    info = ModelInfo.of(model, f"random-{size}", licence="Apache-2.0", note="random initialisation, untrained")
    return Embedder(model, info, digest(model))
