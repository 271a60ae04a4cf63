"""The teachers `musicnn` and `musicnn_frames`: what two taggers find, by the weights of the package musicnn (ISC).

The taggers were trained with the tags of MagnaTagATune (MTT) and of the Million Song Dataset (MSD). They are not
indifferent to level, and a student that normalises its input cannot know it, so they hear every clip at one level.
Shapes: B clips, N samples, T frames, J frames of the taggers, M mel bands (96), P numbers of a clip, F of a frame.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from teachers.base import (
    STRIDE,
    WITHOUT_DEPENDENCIES,
    Targets,
    Teacher,
    TeacherError,
    check_wave,
    installed,
    whole_float32,
)
from teachers.musicnn.checkpoint import DATA, INDEX, read_checkpoint
from teachers.musicnn.network import BANDS, EMBEDDING, MIDDLE, N_MIDDLE, TAGS, from_tensorflow, tagger_of
from teachers.spectral import interpolated, places_of_frames, resampled

RATE_HZ, N_FFT, HOP = 16_000, 512, 256
PATCH = 187  # frames: 3 s
LEVEL_DB = -20.0  # of a clip, root mean square: the median of sampled music
REST = 16  # frames, a quarter of a second, that may be left out at the ends of a clip
LARGEST = 65_504.0  # of float16, to which the authors round mel power
SHA256 = {
    "MTT": {
        INDEX: "da2d7bb670b2b31e9bc441bb1bd75eca31b5b061f963cc1f9630c1aff3238f57",
        DATA: "041f3935e981a65cea739842d30c188d3a7d2adf4410955c8668eb3de4a5acab",
    },
    "MSD": {
        INDEX: "87f3e0f3550c8d3bafc840374003e5c8af5eeb5ecf6add61af09a7822d3282c8",
        DATA: "8579734ee6388f799ed0def4bbd0d1fdcbeaf213ef2a9dc860917bd76a303de6",
    },
}
TAG_NAMES = {
    "MTT": (
        "guitar", "classical", "slow", "techno", "strings", "drums", "electronic", "rock", "fast", "piano", "ambient",
        "beat", "violin", "vocal", "synth", "female", "indian", "opera", "male", "singing", "vocals", "no vocals",
        "harpsichord", "loud", "quiet", "flute", "woman", "male vocal", "no vocal", "pop", "soft", "sitar", "solo",
        "man", "classic", "choir", "voice", "new age", "dance", "male voice", "female vocal", "beats", "harp", "cello",
        "no voice", "weird", "country", "metal", "female voice", "choral",
    ),
    "MSD": (
        "rock", "pop", "alternative", "indie", "electronic", "female vocalists", "dance", "00s", "alternative rock",
        "jazz", "beautiful", "metal", "chillout", "male vocalists", "classic rock", "soul", "indie rock", "Mellow",
        "electronica", "80s", "folk", "90s", "chill", "instrumental", "punk", "oldies", "blues", "hard rock", "ambient",
        "acoustic", "experimental", "female vocalist", "guitar", "Hip-Hop", "70s", "party", "country", "easy listening",
        "sexy", "catchy", "funk", "electro", "heavy metal", "Progressive rock", "60s", "rnb", "indie pop", "sad",
        "House", "happy",
    ),
}  # fmt: skip


class TaggerTeacher(Teacher):
    """What both teachers share: one or both taggers (`taggers`), and clips for them, at 16 kHz and at `level_db`."""

    licence = "ISC"

    def __init__(self, settings: dict[str, Any], weights: dict[str, Tensor]) -> None:
        super().__init__(settings, weights)
        self.sample_rate, self.level_db = self.settings["sample_rate"], self.settings.get("level_db")
        self.rate_hz = self.sample_rate / STRIDE
        if self.sample_rate < RATE_HZ:
            raise ValueError(f"sample_rate={self.sample_rate} is below {RATE_HZ}")
        self.taggers = {name: tagger_of(beginning(self.weights, f"{name}.")) for name in self.settings["taggers"]}

    def _rows(self, wave_BN: Tensor) -> Iterator[Tensor]:
        """The clips one by one [1, N], at the level of all targets."""
        for wave_1N in check_wave(wave_BN, self.name).split(1):
            yield wave_1N if self.level_db is None else at_level(wave_1N, self.level_db)

    def _mel(self, wave_1N: Tensor) -> Tensor:
        """The taggers' input [J, M]."""
        return log_mel(resampled(wave_1N, self.sample_rate, RATE_HZ))[0]


class MusicnnTeacher(TaggerTeacher):
    """Clip targets [B, P] of one or both taggers (`taggers`), side by side, which take music at 16 kHz.

    `outputs="embedding"` are the 200 numbers of each before its tags, standardised by what its last norm measured on
    its training music; `"tags"` are its 50 tags as logits. Both are means over patches of 3 s: that in the middle of a
    clip of up to 3.25 s, and otherwise as many as cover the clip, at equal distances; so a clip of 5 s has one at its
    beginning and one at its end. Clips are brought to a root mean square of `level_db` (relative to full scale; None
    leaves them as they are). TeacherError for clips shorter than a patch.
    """

    name = "musicnn"

    def __init__(self, settings: dict[str, Any], weights: dict[str, Tensor]) -> None:
        super().__init__(settings, weights)
        self.outputs = self.settings["outputs"]
        if self.outputs not in ("embedding", "tags"):
            raise ValueError(f"outputs={self.outputs!r} is neither embedding nor tags")
        self.n_clip_values = len(self.taggers) * (EMBEDDING if self.outputs == "embedding" else TAGS)

    @classmethod
    def installed(
        cls, folder: str | Path | None = None, *, sample_rate: int = 24_000, taggers: tuple[str, ...] = ("MTT", "MSD"),
        outputs: str = "embedding", level_db: float | None = LEVEL_DB,
    ) -> Self:  # fmt: skip
        """The authors' weights, from the installed package musicnn 0.1.0 or the folder of it.

        TeacherError if it is not installed or its files are not the published ones.
        """
        settings = {"sample_rate": sample_rate, "taggers": taggers, "outputs": outputs, "level_db": level_db}
        return cls(settings, published_taggers(folder, taggers))

    @torch.no_grad()
    def targets(self, wave_BN: Tensor) -> Targets:
        """`clips` [B, P]; rows are computed one by one, so that none affects the rounding of another."""
        clips = [torch.cat(list(self._of_clip(wave_1N, self.outputs).values())) for wave_1N in self._rows(wave_BN)]
        return Targets(None, None, self.rate_hz, self.fingerprint, torch.stack(clips))

    @torch.no_grad()
    def tags(self, wave_BN: Tensor) -> dict[str, Tensor]:
        """The probabilities [B, 50] of the tags of each tagger, in the order of its `TAG_NAMES`.

        They are the authors': clips keep their own level.
        """
        rows = check_wave(wave_BN, self.name).split(1)
        clips = [self._of_clip(wave_1N, "probabilities") for wave_1N in rows]
        return {name: torch.stack([clip[name] for clip in clips]) for name in self.taggers}

    def _of_clip(self, wave_1N: Tensor, outputs: str) -> dict[str, Tensor]:
        """One kind of outputs [P] of each tagger for a clip, computed without autocast."""
        made = {}
        with whole_float32(wave_1N.device), torch.autocast(wave_1N.device.type, enabled=False):
            mel_JM = self._mel(wave_1N)
            if len(mel_JM) < PATCH:
                reason = f"clips of {wave_1N.shape[1] / self.sample_rate:.2f} s are too short for it"
                raise TeacherError(self.name, reason, "give clip_s=3 or more")
            mel_BJM = patches(mel_JM)
            for name, tagger in self.taggers.items():
                embedding_BE, logits_BP = tagger.to(mel_BJM.device)(mel_BJM)
                norm = tagger.hidden_norm
                kinds = {
                    "embedding": (embedding_BE - norm.bias) / norm.weight, "tags": logits_BP,
                    "probabilities": logits_BP.sigmoid(),
                }  # fmt: skip
                made[name] = kinds[outputs].mean(0)
        return made


class MusicnnFramesTeacher(TaggerTeacher):
    """Frame targets [B, T, 192 of each tagger]: what the taggers' middle layers give, T = (N - 400) // 320 + 1.

    They are standardised by what their norms measured on the taggers' training music; 62.5 frames a second are
    interpolated linearly at the centres of the student's. `taggers` and `level_db` are those of MusicnnTeacher.
    """

    name = "musicnn_frames"

    def __init__(self, settings: dict[str, Any], weights: dict[str, Tensor]) -> None:
        super().__init__(settings, weights)
        self.n_bins = len(self.taggers) * N_MIDDLE * MIDDLE

    @classmethod
    def installed(
        cls, folder: str | Path | None = None, *, sample_rate: int = 24_000, taggers: tuple[str, ...] = ("MTT", "MSD"),
        level_db: float | None = LEVEL_DB,
    ) -> Self:  # fmt: skip
        """The authors' weights, as in MusicnnTeacher."""
        settings = {"sample_rate": sample_rate, "taggers": taggers, "level_db": level_db}
        return cls(settings, published_taggers(folder, taggers))

    @torch.no_grad()
    def targets(self, wave_BN: Tensor) -> Targets:
        """`frames` [B, T, F]; rows are computed one by one, so that none affects the rounding of another."""
        place_T = places_of_frames(wave_BN.shape[1], self.sample_rate, RATE_HZ, HOP)
        with whole_float32(wave_BN.device), torch.autocast(wave_BN.device.type, enabled=False):
            rows = [interpolated(self._of_clip(wave_1N).cpu().numpy(), place_T) for wave_1N in self._rows(wave_BN)]
        frames_BTF = torch.from_numpy(np.stack(rows)).to(wave_BN.device)
        return Targets(None, frames_BTF, self.rate_hz, self.fingerprint)

    def _of_clip(self, wave_1N: Tensor) -> Tensor:
        """The middle layers of all taggers side by side [J, F]."""
        mel_1JM = self._mel(wave_1N)[None]
        return torch.cat([tagger.to(mel_1JM.device).middle_frames(mel_1JM)[0] for tagger in self.taggers.values()], 1)


def at_level(wave_1N: Tensor, level_db: float) -> Tensor:
    """A clip at a root mean square of `level_db` relative to full scale; silence as it is.

    >>> round(float(at_level(torch.tensor([[3.0, -3.0]]), -20)[0, 0]), 6)
    0.1
    """
    rms = wave_1N.square().mean().sqrt()
    return wave_1N * (10 ** (level_db / 20) / rms) if rms > 0 else wave_1N


def patches(mel_TM: Tensor) -> Tensor:
    """The patches [B, 187, M] of a clip, which is at least as long."""
    spare, n = len(mel_TM) - PATCH, max(1, math.ceil((len(mel_TM) - REST) / PATCH))
    starts = [spare // 2] if n == 1 else [round(i * spare / (n - 1)) for i in range(n)]
    return torch.stack([mel_TM[start : start + PATCH] for start in starts])


def beginning(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The weights whose names have a prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}


def published_taggers(folder: str | Path | None, taggers: Sequence[str]) -> dict[str, Tensor]:
    """The weights of taggers, named `MTT.` and so on, from the installed package or a folder of it.

    TeacherError if it is not installed, lacks a tagger, or its files are not the published ones.
    """
    package = installed("musicnn", MusicnnTeacher.name) if folder is None else Path(folder)
    if not taggers or (unknown := set(taggers) - set(SHA256)):
        raise TeacherError(
            MusicnnTeacher.name, f"has no tagger {sorted(unknown)}", f"give one or more of {sorted(SHA256)}"
        )
    return {
        f"{name}.{key}": tensor
        for name in taggers
        for key, tensor in published_weights(package / f"{name}_musicnn", SHA256[name]).items()
    }


def published_weights(folder: Path, sha256: dict[str, str]) -> dict[str, Tensor]:
    """The state of a `Tagger` from a folder of the package; TeacherError unless its files are the published ones."""
    again = f"install it again: {WITHOUT_DEPENDENCIES}"
    for file, wanted in sha256.items():
        try:
            found = hashlib.sha256((folder / file).read_bytes()).hexdigest()
        except OSError as error:
            raise TeacherError(folder / file, f"cannot be read ({error})", again) from None
        if found != wanted:
            raise TeacherError(folder / file, "is not the file that musicnn 0.1.0 came with (SHA-256)", again)
    try:
        return from_tensorflow(read_checkpoint(folder, again))
    except (KeyError, ValueError) as error:
        raise TeacherError(folder, f"its tensors are not those of musicnn ({error})", again) from None


def log_mel(wave_BN: Tensor) -> Tensor:
    """log10(1 + 10,000 mel power) of music at 16 kHz: [B, N] -> [B, N // 256 + 1, M], frame t centred at 256 t.

    As the authors have it from librosa's defaults, mel power is rounded to float16 on the way.
    """
    window = torch.hann_window(N_FFT, device=wave_BN.device)
    stft_BFT = torch.stft(wave_BN, N_FFT, HOP, window=window, center=True, pad_mode="constant", return_complex=True)
    power_BFT = torch.view_as_real(stft_BFT).square().sum(-1)
    mel_BTM = (mel_bank_on(wave_BN.device) @ power_BFT).transpose(1, 2)
    return (1 + 10_000 * mel_BTM.clamp(max=LARGEST).half().float()).log10()


@lru_cache(maxsize=4)
def mel_bank_on(device: torch.device) -> Tensor:
    """`mel_bank` on one device."""
    return torch.from_numpy(mel_bank().astype(np.float32)).to(device)


def mel_bank() -> np.ndarray:
    """Slaney's mel filters up to half the rate, float64 [M, 257]: triangles whose area over Hz is 1."""
    edges_hz_E = mel_spaced_hz(BANDS + 2, RATE_HZ / 2)
    ramps_EF = edges_hz_E[:, None] - np.linspace(0, RATE_HZ / 2, N_FFT // 2 + 1)
    widths_E1 = np.diff(edges_hz_E)[:, None]
    triangles_MF = np.minimum(-ramps_EF[:-2] / widths_E1[:-1], ramps_EF[2:] / widths_E1[1:])
    return np.maximum(0, triangles_MF) * (2 / (edges_hz_E[2:] - edges_hz_E[:-2]))[:, None]


def mel_spaced_hz(n: int, top_hz: float) -> np.ndarray:
    """Frequencies at equal distances on Slaney's mel scale, from 0: linear to 1 kHz, then logarithmic.

    >>> mel_spaced_hz(40, 11_025)[[1, 12, 39]].round(3).tolist()
    [85.317, 1024.856, 11025.0]
    """
    mels = np.linspace(0, 15 + 27 * math.log(top_hz / 1000) / math.log(6.4), n)
    return np.where(mels < 15, mels * 200 / 3, 1000 * 6.4 ** ((mels - 15) / 27))
