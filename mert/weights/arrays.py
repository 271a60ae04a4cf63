"""Weights of safetensors files as numpy arrays, for the runtime without torch; and which files a MERT is of."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from mert.errors import AGAIN, CheckpointError
from mert.files import read_json, sha256_file, write_whole
from mert.models.config import MertConfig
from mert.models.interface import NetworkConfig
from mert.weights import formats
from mert.weights.conformers import find_layout, read_conformer

ORIGINAL = "give the folder or name that it was exported from"
WITH_TORCH = "install torch, or run `mert convert` where it is installed"


@dataclass(frozen=True)
class Arrays:
    """Weights under our names in float32, their configuration, and the source of both."""

    config: NetworkConfig
    state: dict[str, np.ndarray]
    weights_file: Path
    sha256: str
    source_format: str


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file, whole or not at all; OutputError if the disk refuses."""
    with written(path) as temporary:
        save_file(
            {name: np.ascontiguousarray(array) for name, array in arrays.items()}, temporary, dict(metadata or {})
        )


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """A temporary path for a safetensors file, which becomes `path` whole; OutputError if the disk refuses."""
    with write_whole(path) as temporary:
        try:
            yield temporary
        except SafetensorError as error:  # it hides the OSError of a full disk
            raise OSError(str(error)) from error


def files_of(folder: Path, weights: Path | None = None) -> tuple[MertConfig, Path, formats.Style | None]:
    """The configuration of a MERT's folder (ours or Hugging Face), its weights file, and the style of its names."""
    file = folder / "config.json"
    values = read_json(file)
    ours = values.get("format") == "mert-hub"
    if not ours and "format" in values:
        raise CheckpointError(folder, f"is of format {values['format']!r}, which holds no weights to read", ORIGINAL)
    choices = ["model.safetensors"] if ours else ["model.safetensors", "pytorch_model.bin"]
    weights = weights or next((folder / name for name in choices if (folder / name).is_file()), None)
    if weights is None:
        raise CheckpointError(folder, f"holds no {' or '.join(choices)}", "download the weights into it")
    if ("family" in values) if ours else (values.get("model_type") == "mert2" or "w2v2_config" in values):
        raise CheckpointError(weights, "lies beside the configuration of another family", "give the folder")
    if ours:
        return formats.from_mert_hub(values, str(file)), weights, None
    extra = folder / "preprocessor_config.json"
    preprocessor = read_json(extra) if extra.is_file() else None
    return formats.from_huggingface(values, preprocessor, str(file)), weights, "huggingface"


def read_arrays(path: str | Path) -> Arrays:
    """The weights of a folder, or of a `.safetensors` file beside its config.json.

    CheckpointError for whatever is missing, damaged or of no family here, and for pickles, which are read by torch
    alone.
    """
    path = Path(path)
    if not path.exists():
        raise CheckpointError(path, "no such file or folder", "check the path")
    if layout := find_layout(path):
        with open_arrays(layout.weights) as source:
            found = read_conformer(layout, source.shapes, source.read)
        return Arrays(found.config, found.state, layout.weights, sha256_file(layout.weights), layout.kind)
    config, weights, style = files_of(*((path, None) if path.is_dir() else (path.parent, path)))
    with open_arrays(weights) as source:
        renamed, _ = formats.to_ours(source.shapes, config, style, str(weights))
        state = {ours: source.read(name) for name, ours in renamed.items()}
    refuse_misfits({name: array.shape for name, array in state.items()}, shapes(config), weights)
    return Arrays(config, state, weights, sha256_file(weights), style or "mert-hub")


class OpenArrays(NamedTuple):
    """An open weights file: the shape of each tensor, and a function that reads one as float32."""

    shapes: dict[str, tuple[int, ...]]
    read: Callable[[str], np.ndarray]


@contextmanager
def open_arrays(path: Path) -> Iterator[OpenArrays]:
    """A safetensors file; CheckpointError if it cannot be read, and for pickles."""
    if path.suffix != ".safetensors":
        raise CheckpointError(path, "is a pickle, which needs torch to be read", WITH_TORCH)
    try:
        with safe_open(path, framework="np") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            yield OpenArrays(shapes, lambda name: _float32(file.get_tensor(name), name, path))
    except (SafetensorError, OSError) as error:
        raise CheckpointError(path, f"is not a safetensors file ({error})", AGAIN) from error
    except (TypeError, AttributeError) as error:
        raise CheckpointError(path, f"holds types that numpy lacks ({error})", WITH_TORCH) from error


def _float32(array: np.ndarray, name: str, file: Path) -> np.ndarray:
    if array.dtype.kind != "f" and array.dtype.name != "bfloat16":  # a type of ml_dtypes, which comes with onnx
        raise CheckpointError(file, f"{name} is {array.dtype}", "use floating-point weights")
    values = array.astype(np.float32)
    if not np.isfinite(values).all():
        raise CheckpointError(file, f"{name} holds NaN or Inf", "use an earlier checkpoint")
    return values


def shapes(config: MertConfig) -> dict[str, tuple[int, ...]]:
    """Our name -> shape of every tensor of a `Mert`."""
    c, d, k = config.conv_dim, config.dim, config.position_kernel
    position = "encoder.position.conv"
    wanted: dict[str, tuple[int, ...]] = {
        "mask_embed": (d,), f"{position}.bias": (d,), f"{position}.parametrizations.weight.original0": (1, 1, k),
        f"{position}.parametrizations.weight.original1": (d, d // config.position_groups, k),
    }  # fmt: skip
    for i, taps in enumerate(config.conv_kernels):
        wanted[f"frontend.convs.{i}.weight"] = (c, c if i else 1, taps)
    layers = {"frontend.convs.0.norm": (c,), "projection.norm": (c,), "projection.linear": (d, c), "encoder.norm": (d,)}
    for i in range(config.n_layers):
        block = f"encoder.blocks.{i}"
        layers |= {f"{block}.attention.{part}": (d, d) for part in ("query", "key", "value", "out")}
        layers |= {f"{block}.ffn.up": (config.ffn_dim, d), f"{block}.ffn.down": (d, config.ffn_dim)}
        layers |= {f"{block}.attention_norm": (d,), f"{block}.ffn_norm": (d,)}
    for layer, shape in layers.items():
        wanted |= {f"{layer}.weight": shape, f"{layer}.bias": shape[:1]}
    return wanted


def refuse_misfits(
    given: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]], file: str | Path
) -> None:
    """CheckpointError that names missing, extra and misshapen tensors."""
    wrong = [f"missing {name} {list(wanted[name])}" for name in wanted if name not in given]
    wrong += [f"extra {name} {list(given[name])}" for name in given if name not in wanted]
    wrong += [
        f"{name} has shape {list(given[name])} where the model has {list(wanted[name])}"
        for name in wanted
        if name in given and tuple(given[name]) != tuple(wanted[name])
    ]
    if wrong:
        more = f" and {len(wrong) - 8} more" if len(wrong) > 8 else ""
        reason = f"weights do not fit the configuration: {', '.join(wrong[:8])}{more}"
        raise CheckpointError(file, reason, "use the weights and the config.json of one checkpoint")
