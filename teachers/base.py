"""What every teacher shares: targets at a stated rate, a fingerprint, a saved folder, and errors with a remedy.

Shapes: B clips, N samples, T frames, K codebooks, F bins, P numbers that describe a clip.
"""

import hashlib
import importlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

AGAIN = "fit it or download it again"
STRIDE, FIELD = 320, 400  # samples: frame t of the model covers [320 t, 320 t + 400)
PIECE_FRAMES = 1500  # of a long recording are computed at a time: 20 s at 24 kHz

IS_CHECKOUT = Path(__file__).parents[1].joinpath("pyproject.toml").exists()
INSTALL = 'pip install -e ".[{}]"' if IS_CHECKOUT else 'pip install "mert-hub[{}]"'
WITHOUT_DEPENDENCIES = "pip install --no-deps musicnn==0.1.0 basic-pitch==0.4.0"
BESIDES = {"encodec": ", with torch and torchaudio that belong together (torch==2.9.1 and torchaudio==2.9.1 do)"}


class TeacherError(Exception):
    """A teacher cannot be fitted, loaded or used: its source, the reason and the remedy.

    >>> print(TeacherError("mel_rvq", "10 frames for 1024 classes", "give more audio"))
    mel_rvq: 10 frames for 1024 classes; give more audio
    """

    def __init__(self, source: str | Path, reason: str, remedy: str) -> None:
        self.source, self.reason, self.remedy = str(source), reason, remedy
        super().__init__(f"{self.source}: {reason}; {remedy}")

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        """Let the error travel whole between worker processes."""
        return type(self), (self.source, self.reason, self.remedy)


@dataclass(frozen=True)
class Targets:
    """What the model must predict: `codes` int64 [B, K, T], `frames` float32 [B, T, F] or `clips` float32 [B, P].

    Index t belongs to frame t of the model, `rate_hz` of them a second, which covers samples [320 t, 320 t + 400).
    `clips` describe a clip as a whole by numbers that are about standardised. `fingerprint` is the teacher's.
    """

    codes: Tensor | None
    frames: Tensor | None
    rate_hz: float
    fingerprint: str
    clips: Tensor | None = None


class Crop(NamedTuple):
    """Which part of a corpus a clip is: a recording, its length at the teacher's rate, and the clip's first frame."""

    recording: str
    n_samples: int
    frame: int


class TargetSource(Protocol):
    """What training needs of a teacher or of a label store in its place: targets of crops of known recordings.

    `n_classes` has one entry per codebook, `n_bins` counts the numbers of a frame and `n_clip_values` those of a clip;
    what a teacher does not give is empty or 0. `rate_hz` is the student's frame rate. `fingerprint` is a SHA-256 over
    name, settings and weights, 64 hex digits: equal for teachers of equal targets.
    """

    name: str
    licence: str
    sample_rate: int
    rate_hz: float
    n_classes: tuple[int, ...]
    n_bins: int
    n_clip_values: int
    fingerprint: str

    def crop_targets(self, wave_BN: Tensor, crops: Sequence[Crop], n_frames: int) -> Targets:
        """The first `n_frames` targets of clips, which are these crops, on the device of the clips."""

    def check_recordings(self, recordings: Iterable[tuple[str, int]]) -> None:
        """TeacherError if there are no targets for one of these recordings (name, samples); a teacher has all."""
        return None

    def codebooks(self) -> list[Tensor]:
        """The codewords of each codebook, float32 [C, D]; empty if the teacher has none."""
        return []


class Teacher(TargetSource):
    """A TargetSource that computes targets from audio, by `settings` (plain JSON values) and `weights` (named tensors).

    Subclasses add `targets`.
    """

    name: str = ""
    licence: str = "Apache-2.0"
    sample_rate: int = 24_000
    rate_hz: float = 75.0
    n_classes: tuple[int, ...] = ()
    n_bins: int = 0
    n_clip_values: int = 0

    def targets(self, wave_BN: Tensor) -> Targets:
        """Targets of mono clips at `sample_rate`, deterministic, row by row; at least (N - 400) // 320 + 1 frames."""
        raise NotImplementedError

    def __init__(self, settings: dict[str, Any], weights: dict[str, Tensor]) -> None:
        self.settings = json.loads(json.dumps(settings))  # as read from teacher.json: no tuples
        self.weights = {key: value.detach().cpu().contiguous() for key, value in weights.items()}
        self.fingerprint = fingerprint(self.name, self.settings, self.weights)
        self._placed: tuple[torch.device, dict[str, Tensor]] = (torch.device("cpu"), self.weights)

    def weights_on(self, device: torch.device) -> dict[str, Tensor]:
        """The weights on one device; the last copy is kept."""
        if self._placed[0] != device:
            self._placed = (device, {key: value.to(device) for key, value in self.weights.items()})
        return self._placed[1]

    def crop_targets(self, wave_BN: Tensor, crops: Sequence[Crop], n_frames: int) -> Targets:
        targets = self.targets(wave_BN)
        codes = None if targets.codes is None else targets.codes[:, :, :n_frames]
        frames = None if targets.frames is None else targets.frames[:, :n_frames]
        return replace(targets, codes=codes, frames=frames)

    @classmethod
    def from_parts(cls, settings: dict[str, Any], weights: dict[str, Tensor]) -> Self:
        """The inverse of `.settings` and `.weights`; any built-in exception if they do not belong together."""
        return cls(settings, weights)

    def save(self, folder: str | Path) -> None:
        """Write teacher.json and teacher.safetensors, or neither; TeacherError if the disk refuses.

        Both are written aside before either takes its place. A kill between the two moves leaves no teacher.json.
        """
        folder = Path(folder)
        aside = folder / f".teacher.{os.getpid()}.partial"
        about = {"name": self.name, "licence": self.licence, "fingerprint": self.fingerprint}
        text = json.dumps(about | {"settings": self.settings}, indent=2) + "\n"
        try:
            aside.mkdir(parents=True, exist_ok=True)
            (aside / "teacher.safetensors").write_bytes(save(self.weights))  # save_file lets only its owner read it
            (aside / "teacher.json").write_text(text, encoding="utf-8")
            (folder / "teacher.json").unlink(missing_ok=True)
            for name in ("teacher.safetensors", "teacher.json"):
                os.replace(aside / name, folder / name)
        except (OSError, SafetensorError) as error:
            raise TeacherError(folder, f"cannot be written ({error})", "check permissions and free space") from error
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read what `save` wrote; TeacherError if it is not such a folder, is corrupt, or holds another teacher."""
        about, weights = read_folder(folder)
        if about["name"] != cls.name:
            raise TeacherError(folder, f"holds a {about['name']} teacher, not {cls.name}", "name another folder")
        try:
            teacher = cls.from_parts(about["settings"], weights)
        except (AttributeError, LookupError, StopIteration, TypeError, ValueError, RuntimeError) as error:
            raise TeacherError(folder, f"settings and weights do not belong together ({error})", AGAIN) from error
        # also of the settings as written: a teacher may have dropped unknown ones
        if about["fingerprint"] not in {teacher.fingerprint} & {fingerprint(cls.name, about["settings"], weights)}:
            raise TeacherError(folder, "the fingerprint is not that of its settings and weights", AGAIN)
        return teacher


class CodeTeacher(Teacher):
    """A teacher that gives codes; subclasses add `_codes`, those of one clip, and say how far these reach.

    A code depends on the samples of its own frame and of `frames_before` and `frames_after` it; what it takes from
    further back than that is in the state of `_following`.
    """

    frames_before, frames_after = 0, 0

    def _codes(self, wave_1N: Tensor) -> Tensor:
        """Codes int64 [K, T] of one clip, computed without autocast."""
        raise NotImplementedError

    def _following(self, wave_1N: Tensor, n_known: int, state: Any) -> tuple[Tensor, Any]:
        """Codes [K, T] of a piece but for its first `n_known` frames, and the state to go on with.

        `state` is None at the beginning of a recording, and otherwise that after the known frames.
        """
        return self._codes(wave_1N)[:, n_known:], None

    @torch.no_grad()
    def recording_codes(
        self, read: Callable[[int, int], np.ndarray], n_samples: int, device: torch.device | None = None
    ) -> Tensor:
        """Codes int64 [K, ceil(N / 320)] of a recording of any length, on the CPU, in memory for a piece of it.

        `read(start, n)` gives float32 samples [n]. The codes are those of `targets` of the whole recording, but where
        a library's rounding depends on the length of what is computed together.
        """
        device = device or torch.device("cpu")
        n_frames, parts, state = -(-n_samples // STRIDE), [], None
        with whole_float32(device), torch.autocast(device.type, enabled=False):
            for first in range(0, n_frames, PIECE_FRAMES):
                last, begin = min(first + PIECE_FRAMES, n_frames), max(0, first - self.frames_before)
                end = min((last + self.frames_after) * STRIDE, n_samples)
                wave_N = np.array(read(begin * STRIDE, end - begin * STRIDE), np.float32)
                wave_1N = check_wave(torch.from_numpy(wave_N)[None], self.name).to(device)
                codes_KT, state = self._following(wave_1N, first - begin, state)
                parts.append(codes_KT[:, : last - first].cpu())
        return torch.cat(parts, 1)

    @torch.no_grad()
    def targets(self, wave_BN: Tensor) -> Targets:
        """`codes` [B, K, ceil(N / 320)]; rows are computed one by one, so that none affects the rounding of another."""
        wave_BN = check_wave(wave_BN, self.name)
        with whole_float32(wave_BN.device), torch.autocast(wave_BN.device.type, enabled=False):
            codes_BKT = torch.stack([self._codes(wave_1N) for wave_1N in wave_BN.split(1)])
        return Targets(codes_BKT, None, self.rate_hz, self.fingerprint)


@contextmanager
def whole_float32(device: torch.device) -> Iterator[None]:
    """Disable TF32 in convolutions and LSTMs: with its ten bits a GPU gives other codes than a CPU."""
    cudnn: Any = torch.backends.cudnn
    kinds = [cudnn.conv, cudnn.rnn] if device.type == "cuda" else []
    before = [kind.fp32_precision for kind in kinds]
    try:
        for kind in kinds:
            kind.fp32_precision = "ieee"
        yield
    finally:
        for kind, precision in zip(kinds, before, strict=True):
            kind.fp32_precision = precision


def read_folder(folder: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """teacher.json and the weights of a saved teacher; TeacherError if they cannot be read or lack a key."""
    folder = Path(folder)
    try:
        about = json.loads((folder / "teacher.json").read_text(encoding="utf-8"))
        weights = load_file(folder / "teacher.safetensors")
    except (OSError, ValueError, RecursionError, SafetensorError) as error:
        raise TeacherError(folder, f"is not a saved teacher ({error})", AGAIN) from error
    form = {"name": str, "fingerprint": str, "settings": dict}
    if not isinstance(about, dict) or any(not isinstance(about.get(key), kind) for key, kind in form.items()):
        raise TeacherError(folder, f"teacher.json lacks one of {sorted(form)}", AGAIN)
    return about, weights


def fingerprint(name: str, settings: dict[str, Any], weights: dict[str, Tensor]) -> str:
    """SHA-256 over name, settings and weights (names, types, shapes and bytes), independent of their order."""
    digest = hashlib.sha256(json.dumps([name, settings], sort_keys=True).encode())
    for key, value in sorted(weights.items()):
        digest.update(json.dumps([key, str(value.dtype), list(value.shape)]).encode())
        digest.update(value.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def check_wave(wave_BN: Tensor, source: str) -> Tensor:
    """The clips as float32; ValueError unless they are a real [B, N] with N >= 1.

    >>> check_wave(torch.zeros(3), "cqt")
    Traceback (most recent call last):
    ValueError: cqt wants clips [B, N] of real samples, N >= 1, not float32 [3]
    """
    if wave_BN.dim() != 2 or wave_BN.shape[1] < 1 or not wave_BN.is_floating_point():
        given = f"{str(wave_BN.dtype).removeprefix('torch.')} {list(wave_BN.shape)}"
        raise ValueError(f"{source} wants clips [B, N] of real samples, N >= 1, not {given}")
    return wave_BN.float()


def require(module: str, asked_for: str | Path, extra: str) -> Any:
    """Import a package of an optional extra; TeacherError about what was asked for, with the install line."""
    try:
        return importlib.import_module(module)
    except (ImportError, OSError, RuntimeError) as error:  # OSError, RuntimeError: binaries built for another torch
        package = module.partition(".")[0]
        remedy = INSTALL.format(extra) + BESIDES.get(extra, "")
        raise TeacherError(asked_for, f"{package} cannot be imported ({error})", remedy) from error


def installed(package: str, asked_for: str | Path) -> Path:
    """The folder of an installed package, which is not imported; TeacherError with the install line if there is none.

    It is for packages whose weights are used and whose code is not, so that nothing else need be installed for them.
    """
    try:
        return Path(str(distribution(package).locate_file(package.replace("-", "_"))))
    except PackageNotFoundError:
        raise TeacherError(asked_for, f"the package {package} is not installed", WITHOUT_DEPENDENCIES) from None


def perplexity(counts_C: Tensor) -> float:
    """exp of the entropy of code counts [C]: the number of codes in use, if all were equally frequent.

    >>> perplexity(torch.tensor([5, 5, 0, 5, 5])), perplexity(torch.tensor([7, 0]))
    (4.0, 1.0)
    """
    share_C = counts_C[counts_C > 0] / counts_C.sum()
    return float(torch.exp(-(share_C * share_C.log()).sum()))
