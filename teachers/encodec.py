"""EnCodec's residual codes (arXiv 2210.13438) by the `encodec` package, extra `encodec`, licence CC BY-NC 4.0.

The package and its torchaudio are imported when a teacher is made, never before.
Shapes: B clips, N samples, T frames, D code dimensions, C classes, K codebooks.
"""

from __future__ import annotations

import logging
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from teachers.base import StoredTeacher, Targets, TeacherError, check_wave, require, whole_float32

LICENCE = "CC BY-NC 4.0"
PUBLISHED = "encodec_24khz-d7cc33bc.th"
_noted: set[str] = set()


@dataclass(frozen=True)
class Architecture:
    """Sizes of the causal SEANet encoder and its quantiser; the defaults are those of the published 24 kHz codec.

    >>> Architecture().hop
    320
    """

    n_filters: int = 32
    n_residual_layers: int = 1
    lstm: int = 2
    dimension: int = 128
    n_codebooks: int = 8
    n_classes: int = 1024
    sample_rate: int = 24_000
    hop: int = 320  # ratios 8, 5, 4, 2

    @property
    def seanet(self) -> dict[str, int | bool | str]:
        """Arguments common to encoder and decoder."""
        layers = {"n_filters": self.n_filters, "n_residual_layers": self.n_residual_layers, "lstm": self.lstm}
        return {"channels": 1, "dimension": self.dimension, "causal": True, "norm": "weight_norm", **layers}


def encodec_package() -> Any:
    """The package, after its licence was named once; TeacherError if it or its torchaudio cannot be imported."""
    package = require("encodec", "encodec", "encodec")
    if LICENCE not in _noted:
        _noted.add(LICENCE)
        logging.getLogger("mert").warning(
            "the encodec package and its weights are licensed %s: models trained on its codes inherit this", LICENCE
        )
    return package


def build(architecture: Architecture, decoder: bool = False) -> nn.ModuleDict:
    """Fresh `encoder`, `quantizer` and, for training, `decoder`, named as in the published weights."""
    modules = require("encodec.modules", "encodec", "encodec")
    quantization = require("encodec.quantization", "encodec", "encodec")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)  # the package uses torch's former weight norm
        parts = nn.ModuleDict({"encoder": modules.SEANetEncoder(**architecture.seanet)})
        if decoder:
            parts["decoder"] = modules.SEANetDecoder(**architecture.seanet)
    parts["quantizer"] = quantization.ResidualVectorQuantizer(
        architecture.dimension, architecture.n_codebooks, architecture.n_classes, kmeans_iters=10
    )
    return parts


def layers(parts: nn.ModuleDict) -> Any:
    """The quantiser's stages, each with a `_codebook`."""
    quantizer: Any = parts["quantizer"]
    return quantizer.vq.layers


class EncodecTeacher(StoredTeacher):
    """Code targets [B, 8, T] of 1024 classes each at 75 Hz (24 kHz, 6 kbit/s); code t ends at sample 320 (t + 1).

    A clip is encoded in one pass, so memory grows with its length: about 1.1 GB a minute.
    """

    name = "encodec"
    licence = LICENCE

    def __init__(self, architecture: Architecture, weights: dict[str, Tensor]) -> None:
        encodec_package()
        super().__init__(asdict(architecture), weights)
        self.sample_rate, self.rate_hz = architecture.sample_rate, architecture.sample_rate / architecture.hop
        self.n_classes = (architecture.n_classes,) * architecture.n_codebooks
        with torch.random.fork_rng(devices=[]):  # the initial weights, replaced at once, cost the caller no numbers
            self.parts = build(architecture)
        self.parts.load_state_dict(self.weights)
        self.parts.eval().requires_grad_(False)
        if not all(layer._codebook.inited for layer in layers(self.parts)):
            raise ValueError("the codebooks were never fitted: all codes would be zero")

    def codebooks(self) -> list[Tensor]:
        return [layer._codebook.embed for layer in layers(self.parts)]

    @classmethod
    def from_parts(cls, settings: dict[str, Any], weights: dict[str, Tensor]) -> Self:
        return cls(Architecture(**settings), weights)

    @classmethod
    def pretrained(cls, folder: str | Path | None = None) -> Self:
        """The published codec, from a folder that holds `encodec_24khz-d7cc33bc.th` or by the package's own download.

        TeacherError if neither works; the package checks the file's SHA-256 against its name.
        """
        package = encodec_package()
        where = folder if folder is not None else "encodec"
        if folder is not None and not (Path(folder) / PUBLISHED).is_file():
            raise TeacherError(where, f"holds no {PUBLISHED}", "name the folder of EnCodec's 24 kHz weights")
        try:
            with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
                warnings.filterwarnings("ignore", category=FutureWarning)  # as in `build`
                repository = None if folder is None else Path(folder)
                model = package.EncodecModel.encodec_model_24khz(pretrained=True, repository=repository)
        except (OSError, RuntimeError, ValueError) as error:
            remedy = f"download {PUBLISHED} and name its folder"
            raise TeacherError(where, f"the weights cannot be had ({error})", remedy) from error
        architecture = Architecture()
        unused = ("decoder.", *(f"quantizer.vq.layers.{k}." for k in range(architecture.n_codebooks, 32)))
        state = model.state_dict()
        return cls(architecture, {key: value.clone() for key, value in state.items() if not key.startswith(unused)})

    @classmethod
    def random(cls, seed: int = 0, **sizes: int) -> Self:
        """A codec of random weights, its codebooks drawn from noisy latents of tones; for dry runs and tests."""
        encodec_package()
        architecture = Architecture(**sizes)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed)
            parts = build(architecture).eval()
            rest_ND = parts["encoder"](tones(architecture.sample_rate)[None, None])[0].T
            for layer in layers(parts):
                embed_CD = rest_ND[torch.randint(len(rest_ND), (architecture.n_classes,))]
                embed_CD = embed_CD + 0.3 * rest_ND.std(0) * torch.randn_like(embed_CD)
                layer._codebook.embed.copy_(embed_CD)
                layer._codebook.inited.fill_(1)
                rest_ND = rest_ND - embed_CD[layer._codebook.quantize(rest_ND)]
        return cls(architecture, parts.state_dict())

    @torch.no_grad()
    def targets(self, wave_BN: Tensor) -> Targets:
        """`codes` [B, K, ceil(N / 320)]; rows are computed one by one, so that none can sway another's rounding."""
        wave_BN = check_wave(wave_BN, self.name)
        self.parts.to(wave_BN.device)
        with whole_float32(wave_BN.device):
            codes_BKT = torch.stack([self._codes(wave_1N) for wave_1N in wave_BN.split(1)])
        return Targets(codes_BKT, None, self.rate_hz, self.fingerprint)

    def _codes(self, wave_1N: Tensor) -> Tensor:
        with torch.autocast(wave_1N.device.type, enabled=False):
            latent_1DT = self.parts["encoder"](wave_1N[None])
            quantizer: Any = self.parts["quantizer"]
            codes_K1T: Tensor = quantizer.encode(latent_1DT, round(self.rate_hz))
            return codes_K1T[:, 0]


def tones(rate_hz: int) -> Tensor:
    """Eight seconds [N] of tones, a new pitch and loudness each tenth of a second, drawn from torch's generator."""
    n_tones, n = 80, rate_hz // 10
    hz_M1 = 60 * 2 ** (6 * torch.rand(n_tones, 1))
    loudness_M1 = 10 ** (-2.5 * torch.rand(n_tones, 1))
    return (loudness_M1 * torch.sin(2 * torch.pi * hz_M1 * torch.arange(n) / rate_hz)).flatten()
