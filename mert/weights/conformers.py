"""The published files of MERT-v2, MuQ and MusicFM as weights of a `Conformer`: no tensor is passed over in silence."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mert.errors import CheckpointError
from mert.files import read_json, sha256_file
from mert.models.conformer.config import ConformerConfig
from mert.models.conformer.logmel import LogMel
from mert.models.conformer.network import Conformer
from mert.weights.arrays import AGAIN, PAIRS
from mert.weights.pickles import open_torch
from mert.weights.safetensor_files import open_safetensors

STATISTIC = "melspec_2048"
LEAST_STD = 1e-5  # of MERT-v2's bins

BLOCK = {
    r"layers\.(\d+)\.ffn([12])_layer_norm": r"blocks.\1.ffn\2_norm",
    r"layers\.(\d+)\.ffn([12])\.(?:w_1|intermediate_dense)": r"blocks.\1.ffn\2.up",
    r"layers\.(\d+)\.ffn([12])\.(?:w_2|output_dense)": r"blocks.\1.ffn\2.down",
    r"layers\.(\d+)\.(?:attn|self_attn)_layer_norm": r"blocks.\1.attention_norm",
    r"layers\.(\d+)\.(?:attn\.query_proj|self_attn\.linear_q)": r"blocks.\1.attention.query",
    r"layers\.(\d+)\.(?:attn\.key_proj|self_attn\.linear_k)": r"blocks.\1.attention.key",
    r"layers\.(\d+)\.(?:attn\.value_proj|self_attn\.linear_v)": r"blocks.\1.attention.value",
    r"layers\.(\d+)\.(?:attn\.out_proj|self_attn\.linear_out)": r"blocks.\1.attention.out",
    r"layers\.(\d+)\.conv_module\.layer_norm": r"blocks.\1.conv.norm",
    r"layers\.(\d+)\.conv_module\.(?:conv_block\.1|pointwise_conv1)": r"blocks.\1.conv.expand",
    r"layers\.(\d+)\.conv_module\.(?:conv_block\.3|depthwise_conv)": r"blocks.\1.conv.depthwise",
    r"layers\.(\d+)\.conv_module\.(?:conv_block\.4\.1|batch_norm)": r"blocks.\1.conv.middle_norm",
    r"layers\.(\d+)\.conv_module\.(?:conv_block\.6|pointwise_conv2)": r"blocks.\1.conv.contract",
    r"layers\.(\d+)\.final_layer_norm": r"blocks.\1.last_norm",
}
CONVNEXT = r"subsampling_module\.(\d)\.convnext_layers\.(\d+)\."
RENAMED = {
    "mert-v2": {
        r"feature_extractor\.mel_(mean|std)": r"frontend.\1",
        r"feature_extractor\.spectrogram\.window": "frontend.window",
        r"feature_extractor\.mel_scale\.fb": "frontend.filters",
        r"subsampling_module\.(\d)\.resampling_layer\.0": r"subsampler.stages.\1.norm",
        r"subsampling_module\.(\d)\.resampling_layer\.2": r"subsampler.stages.\1.halve",
        CONVNEXT + r"depthwise_block\.1": r"subsampler.stages.\1.layers.\2.depthwise",
        CONVNEXT + r"pointwise_block\.0": r"subsampler.stages.\1.layers.\2.norm",
        CONVNEXT + r"pointwise_block\.1": r"subsampler.stages.\1.layers.\2.up",
        CONVNEXT + r"pointwise_block\.3": r"subsampler.stages.\1.layers.\2.response",
        CONVNEXT + r"pointwise_block\.4": r"subsampler.stages.\1.layers.\2.down",
        **BLOCK,
    },
    "muq": {
        r"model\.preprocessor_melspec_2048\.mel_stft\.spectrogram\.window": "frontend.window",
        r"model\.preprocessor_melspec_2048\.mel_stft\.mel_scale\.fb": "frontend.filters",
        r"model\.conv\.conv\.(\d)\.conv(\d)": r"subsampler.stages.\1.conv\2",
        r"model\.conv\.conv\.(\d)\.bn(\d)": r"subsampler.stages.\1.norm\2",
        r"model\.conv\.linear": "subsampler.linear",
        r"model\.conformer\.layer_norm": "norm",
        **{r"model\.conformer\." + published: ours for published, ours in BLOCK.items()},
    },
}
UNUSED = re.compile(
    r"model\.(cls_token|mask_emb|linear\.|rvq\.|quantizer_|conformer\.pos_conv_embed\.|conformer\.embed_positions\.).*"
    r"|.*\.num_batches_tracked"
)


@dataclass(frozen=True)
class ConformerCheckpoint:
    """Weights under our names, their configuration, the tensors that are not used, and the source of it all."""

    config: ConformerConfig
    state: dict[str, Tensor]
    unused: tuple[str, ...]
    weights_file: Path
    sha256: str
    source_format: str

    def model(self) -> Conformer:
        """The network with these weights."""
        with torch.device("meta"):
            model = Conformer(self.config)
        model.load_state_dict(self.state, assign=True)
        return model.eval()


@dataclass(frozen=True)
class Layout:
    """Where a published model lies: its kind, its weights, and the values of its JSON file."""

    kind: str
    weights: Path
    values: Mapping[str, Any] = field(default_factory=dict)
    file: Path | None = None


def find_layout(path: Path) -> Layout | None:
    """The layout of a published conformer in a folder, or of one of MusicFM's files; None for anything else.

    CheckpointError for a folder with several of MusicFM's models: which is meant must be said.
    """
    if path.is_file() and PAIRS.fullmatch(path.name):
        return _musicfm(path)
    config = path / "config.json"
    if config.is_file():
        values = read_json(config)
        weights = path / "model.safetensors"
        if values.get("format") == "mert-hub" and "family" in values:
            return Layout("mert-hub", weights, values, config)
        if values.get("model_type") == "mert2":
            return Layout("mert-v2", weights, values, config)
        if "model_type" not in values and {"encoder_dim", "w2v2_config", "stat"} <= values.keys():
            return Layout("muq", weights, values, config)
        return None
    found = sorted(file for file in path.glob("pretrained_*.pt") if PAIRS.fullmatch(file.name))
    if len(found) > 1:
        names = " and ".join(file.name for file in found)
        raise CheckpointError(path, f"holds two models, {names}", "give the path of one of them")
    return _musicfm(found[0]) if found else None


def _musicfm(weights: Path) -> Layout:
    """The weights of MusicFM with the statistics that belong to them, by their names."""
    match = PAIRS.fullmatch(weights.name)
    assert match is not None
    statistics = weights.with_name(f"{match['name']}_stats.json")
    if not statistics.is_file():
        raise CheckpointError(weights, f"needs {statistics.name} beside it", "download it from the same repository")
    return Layout("musicfm", weights, read_json(statistics), statistics)


def read_conformer(path: str | Path) -> ConformerCheckpoint:
    """The weights of a published folder or file; CheckpointError for what is missing, damaged or of another kind."""
    layout = find_layout(Path(path))
    if layout is None:
        raise CheckpointError(path, "is no MERT-v2, MuQ or MusicFM", "give a folder in the published layout")
    pickled = layout.kind == "musicfm"
    with open_torch(layout.weights, "state_dict") if pickled else open_safetensors(layout.weights) as source:
        tensors = {name: source.read(name) for name in source.shapes}
    if layout.kind == "mert-hub":
        return _ours(layout, tensors)
    named, unused = renamed(tensors, RENAMED["mert-v2" if layout.kind == "mert-v2" else "muq"], layout.weights)
    try:
        config = CONFIGS[layout.kind](layout.values, tensors)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(layout.file or path, f"is no configuration of {layout.kind} ({error})", AGAIN) from None
    named |= statistics_of(layout, config, named)
    return ConformerCheckpoint(
        config, fitted(named, config, layout.weights), unused, layout.weights, sha256_file(layout.weights), layout.kind
    )


def _ours(layout: Layout, tensors: Mapping[str, Tensor]) -> ConformerCheckpoint:
    """The weights of our own format."""
    kept = {key: value for key, value in layout.values.items() if key not in ("format", "format_version")}
    if layout.values.get("format_version") != 1:
        raise CheckpointError(layout.file or layout.weights, "is not of format_version 1", "update mert-hub")
    try:
        config = ConformerConfig.from_dict(kept)
    except (TypeError, ValueError) as error:
        raise CheckpointError(layout.file or layout.weights, f"is no configuration ({error})", AGAIN) from None
    state = fitted(tensors, config, layout.weights)
    return ConformerCheckpoint(config, state, (), layout.weights, sha256_file(layout.weights), "mert-hub")


def renamed(
    tensors: Mapping[str, Tensor], rules: Mapping[str, str], file: Path
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Tensors under our names, and the names of those that inference does not need; CheckpointError for any other."""
    ending = r"((?:\.(?:weight|bias|running_mean|running_var))?)"
    patterns = [(re.compile(rule + ending), ours) for rule, ours in rules.items()]
    named, unused = {}, []
    for name, tensor in tensors.items():
        if UNUSED.fullmatch(name):
            unused.append(name)
            continue
        for pattern, ours in patterns:
            if match := pattern.fullmatch(name):
                named[match.expand(ours) + match[match.lastindex or 0]] = tensor
                break
        else:
            raise CheckpointError(file, f"holds {name}, which no published model has", AGAIN)
    return named, tuple(unused)


def statistics_of(layout: Layout, config: ConformerConfig, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Mean and deviation of the log-mel: in the weights of MERT-v2, beside those of the others."""
    if layout.kind == "mert-v2":
        return {"frontend.std": named["frontend.std"].clamp(min=LEAST_STD)}
    values = layout.values["stat"] if layout.kind == "muq" else layout.values
    try:
        numbers = {part: float(values[f"{STATISTIC}_{part}"]) for part in ("mean", "std")}
    except (KeyError, TypeError, ValueError):
        raise CheckpointError(layout.file or layout.weights, f"has no {STATISTIC}_mean and _std", AGAIN) from None
    return {f"frontend.{part}": torch.full((config.n_mels,), value) for part, value in numbers.items()}


def fitted(named: Mapping[str, Tensor], config: ConformerConfig, file: Path) -> dict[str, Tensor]:
    """Float32 tensors in the shapes of the network; CheckpointError for missing, extra and misshapen ones."""
    with torch.device("meta"):
        wanted = Conformer(config).state_dict()
    own = {name for name in wanted if name.endswith("num_batches_tracked")}
    made = {"frontend.window", "frontend.filters"}  # computed where the file does not hold them
    missing = wanted.keys() - named.keys() - own - made
    extra = named.keys() - wanted.keys()
    if missing or extra:
        wrong = f"lacks {min(missing)}" if missing else f"holds {min(extra)}"
        raise CheckpointError(file, f"{wrong}, for {config.n_layers} blocks of width {config.dim}", AGAIN)
    state = {name: torch.zeros((), dtype=torch.long) for name in own}
    for name, tensor in named.items():
        if tensor.numel() != wanted[name].numel() or squeezed(tensor) != squeezed(wanted[name]):
            shapes = f"{list(tensor.shape)}, where the model has {list(wanted[name].shape)}"
            raise CheckpointError(file, f"{name} has shape {shapes}", AGAIN)
        state[name] = tensor.float().reshape(wanted[name].shape).contiguous()
    computed = LogMel(config).state_dict()
    return state | {name: computed[name.removeprefix("frontend.")] for name in made - named.keys()}


def squeezed(tensor: Tensor) -> tuple[int, ...]:
    """The shape without axes of length 1: published kernels of length 1 are our matrices."""
    return tuple(length for length in tensor.shape if length != 1)


def of_mert_v2(values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> ConformerConfig:
    """The configuration of MERT-v2, by its config.json."""
    return ConformerConfig(
        family="mert-v2", dim=values["hidden_size"], n_layers=values["num_hidden_layers"],
        n_heads=values["num_attention_heads"], ffn_dim=values["intermediate_size"],
        conv_kernel=values["conv_depthwise_kernel_size"], subsampler="convnext", conv_dim=0,
        stage_dims=tuple(values["subsampling_channels"]), stage_depths=tuple(values["subsampling_depths"]),
        activation="gelu", rope="projections", conv_norm="layer", last_norm=False, centre=360,
        n_mels=values["num_mel_bins"], n_fft=values["n_fft"], hop=values["hop_length"],
        sample_rate=values["sampling_rate"], window_s=float(values["context_seconds"]),
    )  # fmt: skip


def of_muq(values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> ConformerConfig:
    """The configuration of MuQ: depth and width are the outer ones, which override those of `w2v2_config`."""
    inner = values["w2v2_config"]
    if values["label_rate"] != 25:
        raise ValueError(f"label_rate {values['label_rate']}, and 25 is what was published")
    return ConformerConfig(
        dim=values["encoder_dim"], n_layers=values["encoder_depth"], n_heads=inner["num_attention_heads"],
        ffn_dim=inner["intermediate_size"], conv_kernel=inner["conv_depthwise_kernel_size"],
        conv_dim=values["conv_dim"], n_mels=values["n_mels"], hop=values["hop_length"],
    )  # fmt: skip


def of_musicfm(values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> ConformerConfig:
    """The configuration of MusicFM, which has no config.json: by the shapes of its tensors."""
    blocks = {int(match[1]) for name in tensors if (match := re.match(r"model\.conformer\.layers\.(\d+)\.", name))}
    block = "model.conformer.layers.0"
    dim = tensors["model.conv.linear.weight"].shape[0]
    width = 2 * len(tensors["model.conformer.embed_positions.inv_freq"])
    return ConformerConfig(
        family="musicfm", dim=dim, n_layers=len(blocks), n_heads=dim // width,
        ffn_dim=tensors[f"{block}.ffn1.intermediate_dense.weight"].shape[0],
        conv_kernel=tensors[f"{block}.conv_module.depthwise_conv.weight"].shape[-1],
        conv_dim=tensors["model.conv.conv.0.conv1.weight"].shape[0],
        n_mels=tensors["model.preprocessor_melspec_2048.mel_stft.mel_scale.fb"].shape[1],
    )  # fmt: skip


CONFIGS = {"mert-v2": of_mert_v2, "muq": of_muq, "musicfm": of_musicfm}
