"""The MERT models known by name: where they are, what they are, and under which licence."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from mert.errors import CheckpointError

if TYPE_CHECKING:
    from mert.models.mert import Mert


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """What is on record about one model; `repo` is a hub repository or a local folder."""

    name: str
    repo: str
    licence: str
    n_params: int
    sample_rate: int
    frame_rate: float
    n_layers: int
    dim: int
    window_s: float
    recommended_layer: str | None = None
    revision: str | None = None
    sha256: str | None = None
    note: str = ""

    @classmethod
    def of(cls, model: Mert, name: str, repo: str = "", licence: str = "unknown", note: str = "") -> ModelInfo:
        """The record of a model at hand, read off its configuration."""
        config = model.config
        return cls(
            name=name, repo=repo, licence=licence, n_params=sum(p.numel() for p in model.parameters()),
            sample_rate=config.sample_rate, frame_rate=config.frame_rate, n_layers=config.n_layers, dim=config.dim,
            window_s=config.window_s, note=note,
        )  # fmt: skip

    def facts(self) -> dict[str, str]:
        """Every field as text for people; what nobody has measured or recorded is 'not on record'.

        >>> info("mert-v0").facts()["revision"]
        'not on record'
        """
        return {key: "not on record" if value is None else str(value) for key, value in asdict(self).items()}


def _base(
    name: str, repo: str, note: str, rate: int = 24_000, revision: str | None = None, sha256: str | None = None
) -> ModelInfo:
    return ModelInfo(
        name=name, repo=repo, licence="CC BY-NC 4.0", n_params=94_371_712, sample_rate=rate,
        frame_rate=rate / 320, n_layers=12, dim=768, window_s=5.0, revision=revision, sha256=sha256, note=note,
    )  # fmt: skip


REGISTRY: dict[str, ModelInfo] = {
    model.name: model
    for model in (
        ModelInfo(
            name="mert-nano", repo="mert-nano", licence="Apache-2.0", n_params=6_586_240, sample_rate=24_000,
            frame_rate=75.0, n_layers=6, dim=256, window_s=1.0, recommended_layer="layer05",
            sha256="9f06134d8a984b01babb3486e4d306bdd56bd8c26c09f321da891108835fe5e3",
            note="comes with this package; trained on synthesised music only",
        ),
        _base(
            "mert-v1-95m", "m-a-p/MERT-v1-95M", "EnCodec and CQT targets",
            revision="12af15fef9d0ac838c3f475bfbbf26d2060dd4f5",
            sha256="a2b8b747f72c06e0595aeae41ae5473f4364938c6b39b2c58be38c48e6bd3fcd",
        ),
        ModelInfo(
            name="mert-v1-330m", repo="m-a-p/MERT-v1-330M", licence="CC BY-NC 4.0", n_params=315_428_992,
            sample_rate=24_000, frame_rate=75.0, n_layers=24, dim=1024, window_s=5.12,
            note="EnCodec and CQT targets; states below the last layer are not normalised",
        ),
        _base("mert-v0", "m-a-p/MERT-v0", "k-means targets", 16_000),
        _base("mert-v0-public", "m-a-p/MERT-v0-public", "k-means targets, public music only", 16_000),
    )
}  # fmt: skip


def bundled(name: str) -> Path | None:
    """The folder of a model that comes with this package; None for others, and where a local path has its name.

    >>> bundled("mert-v1-95m") is None
    True
    """
    folder = Path(__file__).parent / "bundled" / name.lower()
    return folder if name.lower() in REGISTRY and folder.is_dir() and not Path(name).exists() else None


def list_models(pattern: str = "*") -> list[str]:
    """Names of the registered models that match a shell pattern, upper or lower case.

    >>> list_models("*V1*")
    ['mert-v1-95m', 'mert-v1-330m']
    """
    return [name for name in REGISTRY if fnmatchcase(name, pattern.lower())]


def info(name_or_repo: str) -> ModelInfo:
    """The record of a model, by its name or its repository; CheckpointError with close names if there is none.

    >>> info("m-a-p/MERT-v1-330M").n_layers
    24
    """
    known = {key.lower(): model for model in REGISTRY.values() for key in (model.name, model.repo)}
    found = known.get(name_or_repo.lower())
    if found is None:
        close = get_close_matches(name_or_repo.lower(), known, n=3, cutoff=0.5)
        names = list(dict.fromkeys(known[key].name for key in close)) or list(REGISTRY)
        raise CheckpointError(name_or_repo, "no registered model of this name", f"try {' or '.join(names)}")
    return found
