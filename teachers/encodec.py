"""EnCodec's residual codes (arXiv 2210.13438) by the `encodec` package, extra `encodec`, licence CC BY-NC 4.0.

The package and its torchaudio are imported only when a teacher is constructed.
Shapes: B clips, N samples, T frames, D code dimensions, C classes, K codebooks.
"""

import logging
import math
import warnings
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import l1_loss

from teachers.base import CodeTeacher, TeacherError, require, whole_float32
from teachers.clustering import DEFAULT, Fitting, residual_kmeans, sample_rows

LICENCE = "CC BY-NC 4.0"
PUBLISHED = "encodec_24khz-d7cc33bc.th"
_noted: set[str] = set()


@dataclass(frozen=True)
class Architecture:
    """Sizes of the causal SEANet encoder and its quantiser; the defaults are those of the published 24 kHz codec."""

    n_filters: int = 32
    n_residual_layers: int = 1
    lstm: int = 2
    dimension: int = 128
    n_codebooks: int = 8
    n_classes: int = 1024
    sample_rate: int = 24_000
    hop: int = 320  # ratios 8, 5, 4, 2

    @property
    def reach(self) -> int:
        """Samples before its last one that a frame of the convolutions, which come before the LSTM, depends on.

        >>> Architecture().reach
        797
        """
        total, stride = 6, 1  # of the first convolution
        for ratio in (2, 4, 5, 8):
            total += (2 * (2**self.n_residual_layers - 1) + 2 * ratio - 1) * stride
            stride *= ratio
        return total


def encodec_package() -> Any:
    """The package; the first call logs its licence. TeacherError if it or its torchaudio cannot be imported."""
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
    sizes = {name: getattr(architecture, name) for name in ("n_filters", "n_residual_layers", "lstm", "dimension")}
    seanet = {"channels": 1, "causal": True, "norm": "weight_norm", **sizes}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)  # the package uses torch's former weight norm
        parts = nn.ModuleDict({"encoder": modules.SEANetEncoder(**seanet)})
        if decoder:
            parts["decoder"] = modules.SEANetDecoder(**seanet)
    parts["quantizer"] = quantization.ResidualVectorQuantizer(
        architecture.dimension, architecture.n_codebooks, architecture.n_classes, kmeans_iters=10
    )
    return parts


def layers(parts: nn.ModuleDict) -> Any:
    """The quantiser's stages, each with a `_codebook`."""
    quantizer: Any = parts["quantizer"]
    return quantizer.vq.layers


class EncodecTeacher(CodeTeacher):
    """Code targets [B, 8, T] of 1024 classes each at 75 Hz (24 kHz, 6 kbit/s); code t ends at sample 320 (t + 1).

    A clip is encoded in one pass, so memory grows with its length: about 1.1 GB per minute. A long recording is encoded
    in pieces, between which the state of the LSTM is kept.
    """

    name = "encodec"
    licence = LICENCE

    def __init__(self, architecture: Architecture, weights: dict[str, Tensor]) -> None:
        encodec_package()
        super().__init__(asdict(architecture), weights)
        self.sample_rate, self.rate_hz = architecture.sample_rate, architecture.sample_rate / architecture.hop
        self.n_classes = (architecture.n_classes,) * architecture.n_codebooks
        with torch.random.fork_rng(devices=[]):  # weights that are replaced must not advance the caller's generator
            self.parts = build(architecture)
        self.parts.load_state_dict(self.weights)
        self.parts.eval().requires_grad_(False)
        self.frames_before = -(-architecture.reach // architecture.hop)
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
        package, repository = encodec_package(), None if folder is None else Path(folder)
        if repository and not (repository / PUBLISHED).is_file():
            raise TeacherError(repository, f"holds no {PUBLISHED}", "name the folder of EnCodec's 24 kHz weights")
        try:
            with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
                warnings.filterwarnings("ignore", category=FutureWarning)  # as in `build`
                model = package.EncodecModel.encodec_model_24khz(pretrained=True, repository=repository)
        except (OSError, RuntimeError, ValueError) as error:
            remedy = f"download {PUBLISHED} and name its folder"
            raise TeacherError(folder or "encodec", f"the weights cannot be had ({error})", remedy) from error
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

    def _codes(self, wave_1N: Tensor) -> Tensor:
        return self._following(wave_1N, 0, None)[0]

    def _following(self, wave_1N: Tensor, n_known: int, state: Any) -> tuple[Tensor, Any]:
        self.parts.to(wave_1N.device)
        quantizer: Any = self.parts["quantizer"]
        latents_1DT, state = self.latents(wave_1N, n_known, state)
        return quantizer.encode(latents_1DT, round(self.rate_hz))[:, 0], state

    def latents(self, wave_1N: Tensor, n_known: int, state: Any) -> tuple[Tensor, Any]:
        """What the encoder makes [1, D, T] of a piece but for its first `n_known` frames, and the state to go on with.

        The state is that of the LSTM, and its last outputs, which the last convolution reads.
        """
        encoder: Any = self.parts["encoder"]
        *convolutions, recurrent, nonlinearity, last = encoder.model
        x_1CT = wave_1N[None]
        for layer in convolutions:
            x_1CT = layer(x_1CT)
        x_T1C = x_1CT[:, :, n_known:].permute(2, 0, 1)
        memory, before_1CT = state or (None, x_1CT[:, :, :0])
        y_T1C, memory = recurrent.lstm(x_T1C, memory)
        y_1CT = torch.cat([before_1CT, (y_T1C + x_T1C if recurrent.skip else y_T1C).permute(1, 2, 0)], 2)
        latents_1DT = last(nonlinearity(y_1CT))[:, :, before_1CT.shape[2] :]
        return latents_1DT, (memory, y_1CT[:, :, 1 - last.conv.conv.kernel_size[0] :])


def tones(rate_hz: int) -> Tensor:
    """Eight seconds [N] of tones, a new pitch and loudness every 0.1 s, drawn from torch's generator."""
    n_tones, n = 80, rate_hz // 10
    hz_M1 = 60 * 2 ** (6 * torch.rand(n_tones, 1))
    loudness_M1 = 10 ** (-2.5 * torch.rand(n_tones, 1))
    return (loudness_M1 * torch.sin(2 * torch.pi * hz_M1 * torch.arange(n) / rate_hz)).flatten()


class SmallEncodecTeacher(EncodecTeacher):
    """As `encodec`, with a codec fitted here; `losses` holds one value per step after `fit`."""

    name = "encodec_small"
    losses: tuple[float, ...] = ()

    @classmethod
    def fit(
        cls, waves: Iterable[np.ndarray], *, steps: int = 2000, batch_clips: int = 8, crop_s: float = 1.0,
        sample_clips: int = 2048, lr: float = 3e-4, seed: int = 0, n_filters: int = 8, dimension: int = 64,
        lstm: int = 1, n_codebooks: int = 8, n_classes: int = 1024, how: Fitting = DEFAULT,
    ) -> Self:  # fmt: skip
        """Train on a bounded sample of crops, then refit the codebooks by residual k-means on the trained latents.

        The refit is needed because encodec 0.1.1 overwrites the codes it revives, so that rare ones die out.
        TeacherError if there is no crop of `crop_s` or too few frames for `n_classes`.
        """
        encodec_package()
        architecture = Architecture(n_filters, 1, lstm, dimension, n_codebooks, n_classes)
        rate_hz, hop = architecture.sample_rate, architecture.hop
        n = max(1, round(crop_s * rate_hz / hop)) * hop
        crops_MN = torch.from_numpy(sample_rows(
            waves, lambda wave_1N: wave_1N[:, : wave_1N.shape[1] // n * n].view(1, -1, n), rate_hz, sample_clips, seed,
            cls.name, f"crops of {crop_s:g} s", "give longer recordings or a smaller crop_s",
        ))  # fmt: skip
        # The package draws from torch's global generators.
        with torch.random.fork_rng(devices=[how.device] if how.device.type == "cuda" else []):
            torch.manual_seed(seed)
            parts = build(architecture, decoder=True).to(how.device)
            losses = train(parts, crops_MN, steps, batch_clips, lr, rate_hz // hop, how)
            with whole_float32(how.device):
                latents_ND = encode(parts, crops_MN, how.device)
        codebooks_KCD = residual_kmeans(latents_ND, n_codebooks, n_classes, seed, cls.name, how)
        for layer, embed_CD in zip(layers(parts), codebooks_KCD, strict=True):
            layer._codebook.embed.copy_(embed_CD)
            layer._codebook.inited.fill_(1)
        kept = {key: value for key, value in parts.state_dict().items() if not key.startswith("decoder.")}
        teacher = cls(architecture, kept)
        teacher.losses = tuple(losses)
        return teacher


def train(
    parts: nn.ModuleDict, crops_MN: Tensor, steps: int, batch_clips: int, lr: float, rate_hz: int, how: Fitting
) -> list[float]:
    """Minimise reconstruction plus commitment loss over random batches; the loss of each step."""
    optimizer = torch.optim.Adam(parts.parameters(), lr=lr, betas=(0.5, 0.9))
    losses = []
    parts.train()
    for _ in how.track(range(steps), description="steps"):
        wave_B1N = crops_MN[torch.randint(len(crops_MN), (batch_clips,))][:, None].to(how.device)
        quantised = parts["quantizer"](parts["encoder"](wave_B1N), rate_hz)
        restored_B1N = parts["decoder"](quantised.quantized)[..., : wave_B1N.shape[2]]
        loss = reconstruction(restored_B1N[:, 0], wave_B1N[:, 0]) + quantised.penalty
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parts.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            raise TeacherError("encodec_small", f"the loss is {losses[-1]} at step {len(losses)}", "lower lr")
    return losses


def reconstruction(got_BN: Tensor, wanted_BN: Tensor) -> Tensor:
    """Mean absolute error of samples, and of log spectra at three resolutions."""
    loss = l1_loss(got_BN, wanted_BN)
    for n_fft in (256, 1024, 2048):
        loss = loss + l1_loss(log_spectrum(got_BN, n_fft), log_spectrum(wanted_BN, n_fft)) / 3
    return loss


def log_spectrum(wave_BN: Tensor, n_fft: int) -> Tensor:
    window = torch.hann_window(n_fft, device=wave_BN.device)
    complex_BFT = torch.stft(wave_BN, n_fft, n_fft // 4, window=window, pad_mode="constant", return_complex=True)
    return (complex_BFT.abs() / n_fft**0.5 + 1e-3).log()


@torch.no_grad()
def encode(parts: nn.ModuleDict, crops_MN: Tensor, device: torch.device) -> np.ndarray:
    """The latents [M * T, D] of all crops, a few at a time."""
    parts.eval()
    latents = [parts["encoder"](crops_BN[:, None].to(device)).cpu() for crops_BN in crops_MN.split(8)]
    return torch.cat([latents_BDT.transpose(1, 2).flatten(0, 1) for latents_BDT in latents]).numpy()
