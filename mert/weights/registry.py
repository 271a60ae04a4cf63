"""The models known by name: repository, pinned revision and checksum, licence, and the facts of their size."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from mert.errors import CheckpointError
from mert.models.config import base_95m, large_330m, nano, nano_1
from mert.models.conformer.config import mert_v2, muq_large
from mert.models.interface import Network, NetworkConfig
from mert.weights.licences import UNKNOWN


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """The record of a model; `repo` is a hub repository or a local folder, `file` its weights where they have no usual
    name there."""

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
    family: str = "mert"
    file: str | None = None

    @classmethod
    def of(cls, model: Network, name: str, repo: str = "", licence: str = UNKNOWN, note: str = "") -> ModelInfo:
        """The record of a model at hand."""
        return cls.of_config(model.config, name=name, repo=repo, licence=licence, note=note)

    @classmethod
    def of_config(cls, config: NetworkConfig, **recorded: Any) -> ModelInfo:
        """A record whose facts follow from the configuration; `recorded` are the fields that do not."""
        return cls(
            n_params=config.n_params, sample_rate=config.sample_rate, frame_rate=config.frame_rate,
            n_layers=config.n_layers, dim=config.dim, window_s=config.window_s,
            **{"family": config.family} | recorded,
        )  # fmt: skip

    def facts(self) -> dict[str, str]:
        """Every field as text; a field without a value is 'not on record'.

        >>> info("mert-v0").facts()["revision"]
        'not on record'
        """
        return {key: "not on record" if value is None else str(value) for key, value in asdict(self).items()}


_RESTRICTED = "CC BY-NC 4.0"
_MUSICFM = {
    "repo": "minzwon/MusicFM", "licence": "MIT", "revision": "4513b38bc25ad1d227b1980819b9691ba97f4d87",
    "recommended_layer": "layer07", "family": "musicfm",
}  # fmt: skip
_BASE_16_KHZ = replace(base_95m(), sample_rate=16_000)

REGISTRY: dict[str, ModelInfo] = {
    model.name: model
    for model in (
        ModelInfo.of_config(
            nano(), name="mert-nano", repo="mert-nano", licence="Apache-2.0", recommended_layer="layer05",
            sha256="3349263baaced73df9032d46b1fef9de9ed53d3178b5ef22478d1a6a050f2872",
            note="comes with this package; trained on sampled and synthesised music; two teachers learned from labels",
        ),
        ModelInfo.of_config(
            nano_1(), name="mert-nano-1", repo="mert-nano-1", licence="Apache-2.0", recommended_layer="layer05",
            sha256="9f06134d8a984b01babb3486e4d306bdd56bd8c26c09f321da891108835fe5e3",
            note="comes with this package; the first one, trained on synthesised music only",
        ),
        ModelInfo.of_config(
            base_95m(), name="mert-v1-95m", repo="m-a-p/MERT-v1-95M", licence=_RESTRICTED,
            revision="12af15fef9d0ac838c3f475bfbbf26d2060dd4f5",
            sha256="a2b8b747f72c06e0595aeae41ae5473f4364938c6b39b2c58be38c48e6bd3fcd",
            note="EnCodec and CQT targets",
        ),
        ModelInfo.of_config(
            large_330m(), name="mert-v1-330m", repo="m-a-p/MERT-v1-330M", licence=_RESTRICTED,
            note="EnCodec and CQT targets; states below the last layer are not normalised",
        ),
        ModelInfo.of_config(
            _BASE_16_KHZ, name="mert-v0", repo="m-a-p/MERT-v0", licence=_RESTRICTED, note="k-means targets",
        ),
        ModelInfo.of_config(
            _BASE_16_KHZ, name="mert-v0-public", repo="m-a-p/MERT-v0-public", licence=_RESTRICTED,
            note="k-means targets, public music only",
        ),
        ModelInfo.of_config(
            mert_v2(), name="mert-v2-30s", repo="m-a-p/MERT-v2-30s", licence=_RESTRICTED,
            revision="12130d22fd947c24b0299c9368900fb06a608512",
            note="its card finds genre in layer 23, beats in 21, key in 4, instruments in 14, mood in 16, tags in 22",
        ),
        ModelInfo.of_config(
            mert_v2(360.0), name="mert-v2-fullsong", repo="m-a-p/MERT-v2-FullSong", licence=_RESTRICTED,
            revision="d8ba1c745e733b3908ce6ad16ebeb17ac7600a42",
            sha256="e6dd2ab187d6dd62b6521cd7d8f932e237acf0c5757745a7232082e28391350d",
            note="its card finds genre in layer 24, beats, key and tags in 23, instruments in 12, mood in 13",
        ),
        ModelInfo.of_config(
            muq_large(), name="muq-large-msd", repo="OpenMuQ/MuQ-large-msd-iter", licence=_RESTRICTED,
            revision="0562a57814f6f8bbd9fdea0a25921a2fce1a841a",
            sha256="273febab2be02872c37d2c37e48a9d6c52c1c9392f3eeeabd498efa281ccb7a6",
            note="mel-RVQ targets; its authors use float32",
        ),
        ModelInfo.of_config(
            muq_large(), name="musicfm-msd", file="pretrained_msd.pt", **_MUSICFM,
            sha256="218b483a0256ddef736267425fabb166fd97008983696bb9270def464b47bded",
            note="random-projection targets; the layer is that of its README; its card says mit, and no more",
        ),
        ModelInfo.of_config(
            muq_large(), name="musicfm-fma", file="pretrained_fma.pt", **_MUSICFM,
            sha256="68392eee13d34c2941b3761934abb6b1e67b2e9df498695bda2ea5c1087d4b96",
            note="random-projection targets, music of FMA; the layer is that of its README; its card says mit",
        ),
        ModelInfo.of_config(
            _BASE_16_KHZ, name="hubert-base-ls960", repo="facebook/hubert-base-ls960", licence="Apache-2.0",
            note="trained on speech: a baseline",
        ),
        ModelInfo.of_config(
            _BASE_16_KHZ, name="wav2vec2-base", repo="facebook/wav2vec2-base", licence="Apache-2.0",
            note="trained on speech: a baseline",
        ),
    )
}  # fmt: skip


def bundled(name: str) -> Path | None:
    """The folder of a model that comes with this package; None for others, and if a local model has its name.

    >>> bundled("mert-v1-95m") is None
    True
    """
    folder = Path(__file__).parent / "bundled" / name.lower()
    return folder if name.lower() in REGISTRY and folder.is_dir() and not local_path(name) else None


def local_path(name: str) -> Path | None:
    """The local file or folder that a model's name leads to, or None.

    A folder that has a registered name and holds no model, such as features of that model, does not stand for it.
    """
    path = Path(name)
    if not path.exists():
        return None
    is_ours = name.lower() in REGISTRY and path.is_dir()
    return None if is_ours and not any(map(_is_of_a_model, path.iterdir())) else path


def _is_of_a_model(path: Path) -> bool:
    """Whether a file is one that only folders of models and of runs have."""
    return path.name in ("config.json", "recipe.yaml") or path.suffix in (".safetensors", ".bin", ".pt", ".onnx")


def list_models(
    pattern: str = "*", *, licence: str | None = None, max_params: float | None = None, family: str | None = None
) -> list[str]:
    """Names of the registered models that match a shell pattern, upper or lower case, and all that is asked for.

    `licence` and `family` are patterns, too; `max_params` is the largest number of parameters.

    >>> list_models("*V1*"), list_models(licence="apache*", max_params=10e6)
    (['mert-v1-95m', 'mert-v1-330m'], ['mert-nano', 'mert-nano-1'])
    """
    asked = {"name": pattern, "licence": licence, "family": family}
    return [
        name
        for name, model in REGISTRY.items()
        if all(fnmatchcase(getattr(model, fact).lower(), text.lower()) for fact, text in asked.items() if text)
        and (max_params is None or model.n_params <= max_params)
    ]


def with_weights(sha256: str) -> ModelInfo | None:
    """The registered model whose weights have this hash."""
    return next((model for model in REGISTRY.values() if model.sha256 == sha256), None)


def info(name_or_repo: str) -> ModelInfo:
    """The record of a model, by its name or its repository; CheckpointError with close names if there is none.

    >>> info("m-a-p/MERT-v1-330M").n_layers
    24
    """
    known = {model.repo.lower(): model for model in REGISTRY.values() if not model.file}  # one model a repository
    known |= {model.name: model for model in REGISTRY.values()}
    if (record := known.get(name_or_repo.lower())) is None:
        close = get_close_matches(name_or_repo.lower(), known, n=3, cutoff=0.5)
        names = list(dict.fromkeys(known[key].name for key in close)) or list(REGISTRY)
        raise CheckpointError(name_or_repo, "no registered model of this name", f"try {' or '.join(names)}")
    return record
