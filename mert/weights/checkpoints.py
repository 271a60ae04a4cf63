"""Weights in files: our format, Hugging Face and fairseq checkpoints in; our format and HuBERT exports out.

Safetensors files hold no code. `.bin` and `.pt` files are pickles, which only `mert.weights.pickles` reads.
"""

import hashlib
import zipfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mert.errors import AGAIN, CheckpointError
from mert.files import sha256_file, write_json
from mert.models.config import MertConfig
from mert.models.conformer.config import ConformerConfig
from mert.models.conformer.network import Conformer
from mert.models.interface import NetworkConfig
from mert.models.mert import Mert
from mert.weights import formats
from mert.weights.arrays import files_of, refuse_misfits, written
from mert.weights.conformers import Layout, find_layout, read_conformer
from mert.weights.pickles import OpenWeights, open_torch
from mert.weights.safetensor_files import open_safetensors

NETWORKS: dict[type, Any] = {MertConfig: Mert, ConformerConfig: Conformer}  # by the class of their configuration
_UNREADABLE = (SafetensorError, ValueError, RuntimeError, EOFError, OSError, zipfile.BadZipFile)


@dataclass(frozen=True)
class Checkpoint:
    """Weights under our names in float32, their configuration, and the source of both."""

    config: Any  # a NetworkConfig
    state: dict[str, Tensor]
    dropped: tuple[str, ...]
    weights_file: Path
    sha256: str
    source_format: str


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a folder (ours or Hugging Face), a `.safetensors` or `.bin` file beside its config.json, or a `.pt`.

    The `.pt` is fairseq's. CheckpointError for whatever is missing, damaged, or of no family here.
    """
    path = Path(path)
    if layout := find_layout(path):
        return _read_conformer(layout)
    if path.is_dir():
        return _read_folder(path, None)
    if not path.is_file():
        raise CheckpointError(path, "no such file or folder", "check the path")
    if path.suffix == ".pt":
        return _read_fairseq(path)
    if path.suffix in (".safetensors", ".bin"):
        return _read_folder(path.parent, path)
    raise CheckpointError(path, "unknown kind of file", "give a folder, .safetensors, .bin or fairseq .pt")


def load_state(model: nn.Module, checkpoint: Checkpoint) -> str:
    """Copy the weights into `model`, all of them and nothing else; returns a report: "211 of 211 tensors".

    Raises CheckpointError that names missing, extra and misshapen tensors, and the first one with NaN or Inf.
    A model on the meta device takes the checkpoint's own tensors instead of copies.
    """
    wanted, given, file = model.state_dict(), checkpoint.state, checkpoint.weights_file
    refuse_misfits(_shapes(given), _shapes(wanted), file)
    for name, tensor in given.items():
        if not torch.isfinite(tensor).all():
            raise CheckpointError(file, f"{name} holds NaN or Inf", "use an earlier checkpoint")
    model.load_state_dict(given, assign=any(tensor.is_meta for tensor in wanted.values()))
    heads = f", {len(checkpoint.dropped)} others not used" if checkpoint.dropped else ""
    return f"{len(given)} of {len(wanted)} tensors{heads}"


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


class Undrawn(TorchFunctionMode):
    """New modules get no initial values. On the meta device torch would import its compiler for them: two seconds."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (Tensor.normal_, Tensor.uniform_, nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_):
            return args[0] if args else kwargs["tensor"]
        if func is torch.norm_except_dim:  # of a weight norm
            weight, _, dim = args
            return weight.new_empty([size if i == dim else 1 for i, size in enumerate(weight.shape)])
        return func(*args, **kwargs)


def blank(config: NetworkConfig) -> Any:
    """A model without values, on the meta device, of the family that the configuration is of."""
    with torch.device("meta"), Undrawn():
        return NETWORKS[type(config)](config)


def load_model(path: str | Path) -> tuple[Any, Checkpoint, str]:
    """A network in eval mode with the weights of `path`, allocated after all shapes are checked, and a report."""
    checkpoint = read_checkpoint(path)
    model = blank(checkpoint.config)
    report = load_state(model, checkpoint)
    return model.eval(), checkpoint, report


def write_model(model: Any, folder: str | Path, dtype: torch.dtype = torch.float32) -> Path:
    """Write our format: config.json and model.safetensors, each whole or not at all; returns the folder.

    Buffers (windows, filters, statistics) stay in float32.
    """
    buffers = {name for name, _ in model.named_buffers()}
    documents = {"config.json": formats.to_mert_hub(model.config)}
    return _write(folder, dict(model.state_dict()), documents, dtype, buffers)


def export_hubert(model: Mert, folder: str | Path) -> Path:
    """Write a folder that plain `transformers.AutoModel` loads, without remote code; returns the folder.

    The last layer is `last_hidden_state` there: the last of `hidden_states` of a pre-LN model lacks the final norm from
    transformers 5 on.
    """
    config, table = model.config, formats.names(model.config, "huggingface")
    state = {table[name]: tensor for name, tensor in model.state_dict().items()}
    documents = {"preprocessor_config.json": formats.to_preprocessor, "config.json": formats.to_huggingface}
    return _write(folder, state, {name: document(config) for name, document in documents.items()})


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file, whole or not at all; OutputError if the disk refuses."""
    with written(path) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt", **(metadata or {})})


def _write(
    folder: str | Path, state: dict[str, Tensor], documents: dict[str, Any], dtype: torch.dtype = torch.float32,
    exact: Collection[str] = (),
) -> Path:  # fmt: skip
    folder = Path(folder)
    tensors = {
        name: tensor.detach().to("cpu", torch.float32 if name in exact else dtype).contiguous()
        for name, tensor in state.items()
    }
    write_tensors(folder / "model.safetensors", tensors)
    for name, values in documents.items():
        write_json(folder / name, values)
    return folder


def _read_folder(folder: Path, weights: Path | None) -> Checkpoint:
    config, weights, style = files_of(folder, weights)
    with open_safetensors(weights) if weights.suffix == ".safetensors" else open_torch(weights) as source:
        return _checkpoint(source, config, weights, style)


def _read_conformer(layout: Layout) -> Checkpoint:
    file = layout.weights
    with open_torch(file, "state_dict") if file.suffix == ".pt" else open_safetensors(file) as source:

        def read(name: str) -> np.ndarray:
            tensor = source.read(name)
            if not tensor.is_floating_point():
                raise CheckpointError(file, f"{name} is {tensor.dtype}", "use floating-point weights")
            return tensor.to(torch.float32, copy=True).numpy()  # the file may change under a mapped tensor

        found = read_conformer(layout, source.shapes, read)
    state = {name: torch.from_numpy(array) for name, array in found.state.items()}
    return Checkpoint(found.config, state, found.unused, file, sha256_file(file), layout.kind)


def _read_fairseq(path: Path) -> Checkpoint:
    with open_torch(path, "model") as source:
        settings = {key: source.objects.get(key) for key in ("cfg", "args")}
        config = formats.from_fairseq(source.shapes, settings, str(path))
        return _checkpoint(source, config, path, "fairseq")


def _checkpoint(source: OpenWeights, config: MertConfig, weights: Path, style: formats.Style | None) -> Checkpoint:
    renamed, dropped = formats.to_ours(source.shapes, config, style, str(weights))
    state = {}
    for published, name in renamed.items():
        try:
            tensor = source.read(published)
        except _UNREADABLE as error:
            raise CheckpointError(weights, f"{published} cannot be read ({error})", AGAIN) from error
        if not tensor.is_floating_point():
            raise CheckpointError(weights, f"{published} is {tensor.dtype}", "use floating-point weights")
        state[name] = tensor.to(torch.float32, copy=True)  # the file may change under a mapped tensor
    return Checkpoint(config, state, dropped, weights, sha256_file(weights), style or "mert-hub")


def read_heads(path: Path) -> dict[str, Tensor]:
    """The tensors of the training heads in a fairseq checkpoint under their published names, without fixed kernels."""
    with open_torch(path, "model") as source:
        names = formats.training_heads(source.shapes)
        return {name: source.read(name).to(torch.float32, copy=True) for name in names}


def checksum(model: nn.Module) -> tuple[int, ...]:
    """Sums of the bits of each tensor, all and every third: much faster than `digest`, to notice that it changed."""
    sums = []
    for words in _words(model):
        sums += [words.sum(dtype=torch.int64), words[::3].sum(dtype=torch.int64)]
    return tuple(torch.stack(sums).tolist())


class Glance:
    """Sums of about a hundred words of each tensor, through views of its memory: a look that costs next to nothing."""

    def __init__(self, model: nn.Module) -> None:
        self._views: dict[torch.dtype, list[Tensor]] = {}
        for words in _words(model):
            self._views.setdefault(words.dtype, []).append(words[:: max(1, len(words) // 100)])
        self._before = self._sums()

    def has_changed(self) -> bool:
        """Whether much of a tensor has changed since the last look, in whatever way; replaced tensors go unnoticed."""
        before, self._before = self._before, self._sums()
        return before != self._before

    def _sums(self) -> list[int]:
        return [int(torch.cat(views).sum(dtype=torch.int64)) for views in self._views.values()]


def _words(model: nn.Module) -> Iterator[Tensor]:
    """The bits of each tensor, flat."""
    for tensor in model.state_dict().values():
        integers = {2: torch.int16, 4: torch.int32}.get(tensor.element_size(), torch.int8)
        yield tensor.detach().flatten().view(integers)


def digest(model: nn.Module) -> str:
    """SHA-256 over names and values of all tensors: the identity of weights that have no file."""
    sha = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        sha.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()
