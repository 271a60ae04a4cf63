"""The teacher `basic_pitch`: notes and pitches at every frame, by the network of the package basic-pitch (Apache-2.0).

The network (Bittner et al., arXiv 2203.09893) was trained with the notes and pitches of five annotated data sets. It
runs by onnxruntime, extra `onnx`, on the CPU.
Shapes: B clips, N samples, W windows, J frames of the network, T frames of the student, F numbers of a frame.
"""

import hashlib
from itertools import pairwise
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
    require,
)
from teachers.spectral import interpolated, places_of_frames, resampled

RATE_HZ, HOP = 22_050, 256
WINDOW_SAMPLES, WINDOW_FRAMES, OVERLAP = 43_844, 172, 30  # the network takes 2 s; the authors overlap 30 frames
FILE = "saved_models/icassp_2022/nmp.onnx"
SHA256 = "2c3c1d144bfa61ad236e92e169c13535c880469a12a047d4e73451f2c059a0ec"
INPUT = "serving_default_input_2:0"
OUTPUTS = {  # the name in the network, and how many numbers a frame has
    "notes": ("StatefulPartitionedCall:1", 88),  # A0 to C8
    "onsets": ("StatefulPartitionedCall:2", 88),
    "contours": ("StatefulPartitionedCall:0", 264),  # three a semitone, the second one in tune
}


class BasicPitchTeacher(Teacher):
    """Frame targets [B, T, 352] from 0 to 1: how sure the network is of 88 notes, then of 264 pitches (`outputs`).

    The network normalises the level of each window of 2 s by itself. Its 86.13 frames a second are interpolated
    linearly at the centres of the student's. Clips shorter than a window are followed by zeros.
    """

    name = "basic_pitch"

    def __init__(self, settings: dict[str, Any], weights: dict[str, Tensor]) -> None:
        super().__init__(settings, weights)
        self.sample_rate, self.outputs = self.settings["sample_rate"], self.settings["outputs"]
        self.rate_hz = self.sample_rate / STRIDE
        if self.sample_rate < RATE_HZ / 2 or not self.outputs or set(self.outputs) - set(OUTPUTS):
            raise ValueError(f"sample_rate={self.sample_rate} with outputs={self.outputs}")
        self.n_bins = sum(OUTPUTS[name][1] for name in self.outputs)
        self.session = session_of(self.weights["onnx"].numpy().tobytes())

    @classmethod
    def installed(
        cls, folder: str | Path | None = None, *, sample_rate: int = 24_000,
        outputs: tuple[str, ...] = ("notes", "contours"),
    ) -> Self:  # fmt: skip
        """The authors' network, from the installed package basic-pitch 0.4.0 or the folder of it.

        TeacherError if it or onnxruntime is not installed, or the file is not the published one.
        """
        path = (installed("basic-pitch", cls.name) if folder is None else Path(folder)) / FILE
        again = f"install it again: {WITHOUT_DEPENDENCIES}"
        try:
            network = path.read_bytes()
        except OSError as error:
            raise TeacherError(path, f"cannot be read ({error})", again) from None
        if hashlib.sha256(network).hexdigest() != SHA256:
            raise TeacherError(path, "is not the file that basic-pitch 0.4.0 came with (SHA-256)", again)
        weights = {"onnx": torch.frombuffer(bytearray(network), dtype=torch.uint8)}
        return cls({"sample_rate": sample_rate, "outputs": outputs}, weights)

    @torch.no_grad()
    def targets(self, wave_BN: Tensor) -> Targets:
        """`frames` [B, (N - 400) // 320 + 1, F], on the device of the clips; rows are computed one by one."""
        wave_BN = check_wave(wave_BN, self.name)
        place_T = places_of_frames(wave_BN.shape[1], self.sample_rate, RATE_HZ, HOP)
        rows = (resampled(wave_1N, self.sample_rate, RATE_HZ)[0].cpu().numpy() for wave_1N in wave_BN.split(1))
        frames_BTF = np.stack([interpolated(self.posteriors(wave_N), place_T) for wave_N in rows])
        return Targets(None, torch.from_numpy(frames_BTF).to(wave_BN.device), self.rate_hz, self.fingerprint)

    def posteriors(self, wave_N: np.ndarray) -> np.ndarray:
        """The network's outputs [J, F] for a clip at 22,050 Hz; frame j is centred at sample 256 j."""
        starts = window_starts(len(wave_N) // HOP + 1)
        padded_N = np.pad(wave_N, (0, max(0, starts[-1] * HOP + WINDOW_SAMPLES - len(wave_N))))
        windows_WN1 = np.stack([padded_N[start * HOP : start * HOP + WINDOW_SAMPLES, None] for start in starts])
        outputs = self.session.run([OUTPUTS[name][0] for name in self.outputs], {INPUT: windows_WN1})
        return joined(np.concatenate(outputs, 2), starts)


def session_of(network: bytes) -> Any:
    """The network, to be run by as many threads as torch uses; ValueError if it is none."""
    ort = require("onnxruntime", BasicPitchTeacher.name, "onnx")
    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # cores are for the student meanwhile
    try:
        return ort.InferenceSession(network, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has a class of its own for each fault
        raise ValueError(f"onnxruntime cannot read the network: {error}") from None


def window_starts(n_frames: int) -> list[int]:
    """First frames of windows within a clip of so many frames that overlap by 30 or more, at equal distances.

    The authors' first and last windows reach beyond a recording, into zeros. A clip is cut out of one, and zeros would
    shift the level by which the network normalises the window. Theirs are also 141.3 frames apart and give 142 each.

    >>> window_starts(431), window_starts(100)
    ([0, 129, 259], [0])
    """
    spare = max(0, n_frames - WINDOW_FRAMES)
    n = -(-spare // (WINDOW_FRAMES - OVERLAP)) + 1
    return [i * spare // max(1, n - 1) for i in range(n)]


def joined(windows_WJF: np.ndarray, starts: list[int]) -> np.ndarray:
    """The frames [J, F] of overlapping windows: each from the window in whose middle it is, and the ends from the ends.

    >>> joined(np.arange(3)[:, None, None] * np.ones((1, 172, 1)), [0, 129, 259])[[149, 150, 279, 280, 430], 0].tolist()
    [0.0, 1.0, 1.0, 2.0, 2.0]
    """
    borders = [0, *((a + WINDOW_FRAMES + b) // 2 for a, b in pairwise(starts)), starts[-1] + WINDOW_FRAMES]
    parts = zip(windows_WJF, starts, pairwise(borders), strict=True)
    return np.concatenate([window_JF[first - start : last - start] for window_JF, start, (first, last) in parts])
