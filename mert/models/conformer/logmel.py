"""The log-mel spectrogram from which a conformer begins, in float32 whatever the model computes in.

Shapes: B clips, N samples, K window, F bins, L mel frames, M mels.
"""

import torch
from torch import Tensor, nn

from mert.models.conformer.bands import hann_window, mel_filters
from mert.models.conformer.config import POWER_FLOOR, ConformerConfig


class LogMel(nn.Module):
    """Decibels of mel bands, less `mean` and over `std`: [B, N] -> [B, N // hop, M].

    Frames are centred at multiples of the hop; each clip is reflected at its own end (`lengths_B`), so that padding
    beyond it changes nothing. Window, filters and both statistics are buffers, as some published files hold them.
    """

    window: Tensor
    filters: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        self.n_fft, self.hop = config.n_fft, config.hop
        self.register_buffer("window", torch.from_numpy(hann_window(config.n_fft)))
        self.register_buffer("filters", torch.from_numpy(mel_filters(config.n_mels, config.n_fft, config.sample_rate)))
        self.register_buffer("mean", torch.zeros(config.n_mels))
        self.register_buffer("std", torch.ones(config.n_mels))

    def forward(self, wave_BN: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        with torch.autocast(wave_BN.device.type, enabled=False):
            precise = torch.promote_types(wave_BN.dtype, torch.float32)
            padded_BN = reflected(wave_BN.to(precise), lengths_B, self.n_fft // 2)
            frames_BLK = padded_BN.unfold(1, self.n_fft, self.hop)[:, : wave_BN.shape[1] // self.hop]
            spectrum_BLF = torch.fft.rfft(frames_BLK * self.window)
            power_BLM = (spectrum_BLF.real.square() + spectrum_BLF.imag.square()) @ self.filters
            decibel_BLM = 10 * torch.log10(power_BLM.clamp(min=POWER_FLOOR))
            return (decibel_BLM - self.mean) / self.std


def reflected(wave_BN: Tensor, lengths_B: Tensor | None, reach: int) -> Tensor:
    """Clips continued by their mirror images at both ends: [B, N] -> [B, N + 2 reach]; the ends are those of each clip.

    >>> reflected(torch.tensor([[1.0, 2, 3, 0, 0]]), torch.tensor([3]), 2).tolist()
    [[3.0, 2.0, 1.0, 2.0, 3.0, 2.0, 1.0, 1.0, 1.0]]
    """
    n = wave_BN.shape[1]
    last_B1 = (torch.full((len(wave_BN),), n, device=wave_BN.device) if lengths_B is None else lengths_B)[:, None] - 1
    place_N = torch.arange(-reach, n + reach, device=wave_BN.device).abs()
    mirrored_BN = torch.where(place_N > last_B1, 2 * last_B1 - place_N, place_N).clamp(min=0)
    return wave_BN.gather(1, mirrored_BN)
