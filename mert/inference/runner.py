"""Runner: a model on a device that turns waves into hidden states, in the precision asked for.

Shapes: B waves of a batch, N samples, L layers, T frames, D model width.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from mert.errors import UsageError
from mert.inference.fast import FastMert
from mert.inference.fast_conformer import FastConformer
from mert.inference.kernels import has_bfloat16
from mert.models.conformer.network import Conformer
from mert.models.frontend import golden_wave, normalized
from mert.models.mert import Mert

DTYPES = ("auto", "float32", "bfloat16", "float16", "int8")
MIN_COSINE = 0.999  # to float32, for "auto" to choose a shorter type
FAST: dict[type, Any] = {Mert: FastMert, Conformer: FastConformer}  # by family; their types, and `activation_bytes`


def chosen_device(name: str) -> torch.device:
    """The device of this name; "auto" is a GPU of Nvidia's where there is one, and otherwise the CPU.

    UsageError for one that is absent, or has no float64 (as Apple's), in which the first norm is computed.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.zeros(0, dtype=torch.float64, device=name).device
        if device.type == "meta":
            raise RuntimeError("it holds no values")
        return device
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).split("\n")[0].split(". ")[0]
        unknown = "device type at start" in reason or "nvalid device string" in reason
        reason = "torch knows no such device" if unknown else reason
        raise UsageError(f"device {name}", reason, "give auto, cpu, cuda or cuda:1") from None


class Runner:
    """A model on a device: `states` of waves, in a precision that `precision` resolves."""

    has_bfloat16: Callable[[str], bool] = staticmethod(has_bfloat16)  # replaced by tests that must not depend on it

    def __init__(self, model: Any, device: torch.device) -> None:
        self.model, self.device = model, device
        self._make = FAST[type(model)]
        self._fast: dict[str, Any] = {}
        self._weights: tuple[tuple[int, int], ...] = ()
        self._auto = ""

    @property
    def name(self) -> str:
        """The library that computes, and its version."""
        return f"torch {torch.__version__}"

    @property
    def threads(self) -> int:
        """Threads that compute on the CPU."""
        return torch.get_num_threads()

    def n_frames(self, n_samples: int) -> int:
        """Frames that the model makes of `n_samples`."""
        return int(self.model.n_frames(n_samples))

    def activation_bytes(self, n_samples: int) -> int:
        """Memory of a forward pass: a block's activations, and on a GPU those of the front end."""
        return int(self._make.activation_bytes(self.model.config, n_samples, self.device.type))

    @torch.inference_mode()
    def states(self, waves: Sequence[np.ndarray], dtype: str, layers: Sequence[int]) -> Iterator[np.ndarray]:
        """Float32 hidden states [L, T, D] of each wave [N]; shorter waves are padded, which does not change them."""
        lengths = [len(wave_N) for wave_N in waves]
        ragged = min(lengths) < max(lengths)
        if ragged and dtype == "int8":  # its scales are computed over the whole batch, padding included
            for wave_N in waves:
                yield from self.states([wave_N], dtype, layers)
            return
        if self.model.config.normalize:
            waves = [normalized(wave_N) for wave_N in waves]
        wave_BN = np.zeros((len(waves), max(lengths)), np.float32)
        for row_N, wave_N in zip(wave_BN, waves, strict=True):
            row_N[: len(wave_N)] = wave_N
        lengths_B = torch.tensor(lengths, device=self.device) if ragged else None
        wave = torch.from_numpy(wave_BN)
        if self.device.type == "cuda":
            wave = wave.pin_memory()
        wave = wave.to(self.device, non_blocking=True)
        with whole_float32(self.device):
            states = self._fast_model(dtype)(wave, lengths_B, layers)
        states_LBTD = torch.empty(len(states), *states[0].shape)
        for target_BTD, state_BTD in zip(states_LBTD, states, strict=True):
            target_BTD.copy_(state_BTD)
        for row, length in enumerate(lengths):
            yield states_LBTD[:, row, : self.n_frames(length)].numpy()

    def precision(self, dtype: str) -> str:
        """The type of the computation for a requested `dtype`; ValueError where this device does not offer it.

        "auto" is bfloat16 if the hardware supports it natively and the model tolerates it: on `golden_wave` the mean
        cosine to float32 is at least 0.999 in every layer. Otherwise it is float32.
        """
        if dtype not in DTYPES:
            raise ValueError(f"dtype is one of {', '.join(DTYPES)}, not {dtype!r}")
        if dtype == "int8" and self.device.type != "cpu":
            raise ValueError(f"int8 runs on a CPU, not on {self.device}: give bfloat16")
        if dtype not in ("auto", *self._make.dtypes):
            raise ValueError(f"this family runs in {', '.join(self._make.dtypes)}, not in {dtype}")
        if dtype != "auto":
            return dtype
        self._notice_changed_weights()
        if not self._auto:
            native = self.has_bfloat16(self.device.type)
            self._auto = "bfloat16" if native and self._tolerates("bfloat16") else "float32"
        return self._auto

    def _tolerates(self, dtype: str) -> bool:
        wave_BN = golden_wave(self.model.config.sample_rate)[None].to(self.device)
        with whole_float32(self.device):
            exact = self._make(self.model)(wave_BN)  # not cached: used once
        pairs = zip(exact, self._fast_model(dtype)(wave_BN), strict=True)
        cosines = [torch.cosine_similarity(exact, short.float(), dim=2).mean() for exact, short in pairs]
        return bool(torch.stack(cosines).min() >= MIN_COSINE)  # also false for NaN

    def _fast_model(self, dtype: str) -> Any:
        """The model as it runs in `dtype`: built on first use, and again after its weights have changed.

        (Changes through `.data` go unnoticed until `forget`, as torch does not count them.)
        """
        self._notice_changed_weights()
        if dtype not in self._fast:
            int8 = dtype == "int8"  # the layers it does not quantise run in the type that suits the CPU
            name = ("bfloat16" if self.has_bfloat16("cpu") else "float32") if int8 else dtype
            self._fast[dtype] = self._make(self.model, getattr(torch, name), int8)
        return self._fast[dtype]

    def weights_state(self) -> tuple[tuple[int, int], ...]:
        """Places and versions of the weights, which differ once they have changed."""
        tensors = self.model.state_dict(keep_vars=True).values()
        return tuple((tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version) for tensor in tensors)

    def forget(self) -> None:
        """Build the model that runs from the weights again, when it is needed next."""
        self._weights = ()

    def _notice_changed_weights(self) -> None:
        weights = self.weights_state()
        if weights != self._weights:
            self._fast, self._auto, self._weights = {}, "", weights


@contextmanager
def whole_float32(device: torch.device) -> Iterator[None]:
    """Float32 convolutions in full float32; by default a GPU computes them in TF32, which keeps ten bits."""
    if device.type != "cuda":
        yield
        return
    convolutions: Any = torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before = convolutions.fp32_precision
    convolutions.fp32_precision = "ieee"
    try:
        yield
    finally:
        convolutions.fp32_precision = before
