"""The published files of MERT-v2, MuQ and MusicFM as weights of a `Conformer`: no tensor is passed over in silence.

This page imports no torch: whoever opens a file reads its tensors as arrays.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mert.errors import AGAIN, CheckpointError
from mert.files import read_json
from mert.models.conformer.bands import hann_window, mel_filters
from mert.models.conformer.config import ConformerConfig

PAIRS = re.compile(r"pretrained_(?P<name>msd|fma)\.pt")  # weights of MusicFM, which belong to NAME_stats.json
STATISTIC, COUNTER = "melspec_2048", "num_batches_tracked"
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
    r"model\.(cls_token|linear\..+|rvq\..+|quantizer_.+|conformer\.pos_conv_embed\..+|conformer\.embed_positions\..+)"
    r"|.*\.num_batches_tracked"
)
# What the published configurations say, and all that this network implements.
FIXED: dict[str, dict[str, Any]] = {
    "mert-v2": {
        "layer_norm_eps": 1e-5, "subsampling_layer_norm_eps": 1e-6, "rotary_embedding_base": 10_000, "win_length": 2048,
        "n_fft": 2048,
    },
    "muq": {"label_rate": 25},
}  # fmt: skip
FIXED_WITHIN = {  # of MuQ's `w2v2_config`
    "hidden_act": "swish", "position_embeddings_type": "rotary", "rotary_embedding_base": 10_000,
    "layer_norm_eps": 1e-5,
}  # fmt: skip
NEEDED = {  # of MusicFM, whose configuration follows from shapes
    "model.conv.linear.weight", "model.conformer.embed_positions.inv_freq", "model.conv.conv.0.conv1.weight",
    "model.conformer.layers.0.ffn1.intermediate_dense.weight",
    "model.conformer.layers.0.conv_module.depthwise_conv.weight",
    "model.preprocessor_melspec_2048.mel_stft.mel_scale.fb",
}  # fmt: skip
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class ConformerWeights:
    """Weights under our names in float32, their configuration, and the tensors that are not used."""

    config: ConformerConfig
    state: dict[str, np.ndarray]
    unused: tuple[str, ...]


@dataclass(frozen=True)
class Layout:
    """Where a published model lies: its kind, its weights, and the values of its JSON file."""

    kind: str
    weights: Path
    values: Mapping[str, Any] = field(default_factory=dict)
    file: Path | None = None


def find_layout(path: Path) -> Layout | None:
    """The layout of a conformer in a folder, or around one of its files of weights; None for anything else.

    CheckpointError for a folder with several of MusicFM's models: which is meant must be said.
    """
    if path.is_file() and PAIRS.fullmatch(path.name):
        return _musicfm(path)
    folder, weights = (path, path / "model.safetensors") if path.is_dir() else (path.parent, path)
    config = folder / "config.json"
    if config.is_file() and weights.suffix == ".safetensors":
        values = read_json(config)
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


def read_conformer(layout: Layout, shapes: Shapes, read: Callable[[str], np.ndarray]) -> ConformerWeights:
    """The weights of a file with tensors of these `shapes`, each of which `read` gives as float32.

    CheckpointError for what is missing, damaged or of another kind.
    """
    renamed, unused = to_ours(shapes, layout)
    config = config_of(layout, shapes)
    wanted = shapes_of(config)
    refuse_unlike(renamed, wanted, layout.weights, config)
    state = {}
    for name, ours in renamed.items():
        if ours.endswith(COUNTER):
            continue
        array = read(name)
        if squeezed(array.shape) != squeezed(wanted[ours]):
            found = f"{list(array.shape)}, where the model has {list(wanted[ours])}"
            raise CheckpointError(layout.weights, f"{name} has shape {found}", AGAIN)
        state[ours] = np.ascontiguousarray(array.reshape(wanted[ours]))
    return ConformerWeights(config, state | beside(layout, config, state), unused)


def to_ours(names: Iterable[str], layout: Layout) -> tuple[dict[str, str], tuple[str, ...]]:
    """Published names and ours, and the names of what inference does not need; CheckpointError for any other name."""
    if layout.kind == "mert-hub":
        return {name: name for name in names}, ()
    rules = RENAMED["mert-v2" if layout.kind == "mert-v2" else "muq"]
    ending = r"((?:\.(?:weight|bias|running_mean|running_var))?)"
    patterns = [(re.compile(rule + ending), ours) for rule, ours in rules.items()]
    renamed: dict[str, str] = {}
    unused = []
    for name in names:
        if UNUSED.fullmatch(name):
            unused.append(name)
            continue
        matches = ((pattern.fullmatch(name), ours) for pattern, ours in patterns)
        found = next(((match, ours) for match, ours in matches if match), None)
        if found is None:
            raise CheckpointError(layout.weights, f"holds {name}, which no published model has", AGAIN)
        match, ours = found
        ours = match.expand(ours) + match[match.lastindex or 0]
        if ours in renamed.values():
            raise CheckpointError(layout.weights, f"holds one tensor under two names, {name} and another", AGAIN)
        renamed[name] = ours
    return renamed, tuple(unused)


def config_of(layout: Layout, shapes: Shapes) -> ConformerConfig:
    """The configuration of a layout; CheckpointError for one that is damaged or not implemented."""
    file, values = layout.file or layout.weights, layout.values
    fixed = [(values, FIXED.get(layout.kind, {}))]
    if layout.kind == "muq":
        fixed.append((values["w2v2_config"] if isinstance(values["w2v2_config"], dict) else {}, FIXED_WITHIN))
    for given, wanted in fixed:
        for key, value in wanted.items():
            if given.get(key, value) != value:
                raise CheckpointError(file, f"{key}={given[key]!r} is not implemented", f"only {value!r} was published")
    if layout.kind == "musicfm" and (absent := NEEDED - shapes.keys()):
        raise CheckpointError(layout.weights, f"lacks {min(absent)}", AGAIN)
    try:
        return CONFIGS[layout.kind](values, shapes)
    except (LookupError, TypeError, ValueError, ArithmeticError) as error:
        raise CheckpointError(file, f"is no configuration of {layout.kind} ({error})", AGAIN) from None


def shapes_of(config: ConformerConfig) -> dict[str, tuple[int, ...]]:
    """Our name -> shape of every tensor of a `Conformer`."""
    d, k, mels = config.dim, config.conv_kernel, config.n_mels
    shapes: dict[str, tuple[int, ...]] = {
        "frontend.window": (config.n_fft,), "frontend.filters": (config.n_fft // 2 + 1, mels),
        "frontend.mean": (mels,), "frontend.std": (mels,),
    }  # fmt: skip
    shapes |= _of_convnext(config) if config.subsampler == "convnext" else _of_residual(config)
    for i in range(config.n_layers):
        block = f"blocks.{i}"
        for half in (f"{block}.ffn1", f"{block}.ffn2"):
            shapes |= _affine(f"{half}.up", config.ffn_dim, d) | _affine(f"{half}.down", d, config.ffn_dim)
        for part in ("query", "key", "value", "out"):
            shapes |= _affine(f"{block}.attention.{part}", d, d)
        for norm in ("ffn1_norm", "attention_norm", "ffn2_norm", "last_norm", "conv.norm"):
            shapes |= _affine(f"{block}.{norm}", d)
        shapes |= (_batch_norm if config.conv_norm == "batch" else _affine)(f"{block}.conv.middle_norm", d)
        shapes |= {f"{block}.conv.expand.weight": (2 * d, d), f"{block}.conv.contract.weight": (d, d)}
        shapes |= {f"{block}.conv.depthwise.weight": (d, 1, k)}
    return shapes | (_affine("norm", d) if config.last_norm else {})


def _of_residual(config: ConformerConfig) -> dict[str, tuple[int, ...]]:
    c, shapes = config.conv_dim, dict[str, tuple[int, ...]]()
    for i, c_in in enumerate((1, c)):
        for j, c_from in enumerate((c_in, c, c_in), start=1):
            shapes |= _affine(f"subsampler.stages.{i}.conv{j}", c, c_from, 3, 3)
            shapes |= _batch_norm(f"subsampler.stages.{i}.norm{j}", c)
    return shapes | _affine("subsampler.linear", config.dim, c * ((config.n_mels + 3) // 4))


def _of_convnext(config: ConformerConfig) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for i, (c, depth) in enumerate(zip(config.stage_dims, config.stage_depths, strict=True)):
        stage = f"subsampler.stages.{i}"
        if i:
            c_in = config.stage_dims[i - 1]
            shapes |= _affine(f"{stage}.norm", c_in) | _affine(f"{stage}.halve", c, c_in, 2)
        for layer in (f"{stage}.layers.{j}" for j in range(depth)):
            shapes |= _affine(f"{layer}.depthwise", c, 1, 7) | _affine(f"{layer}.norm", c)
            shapes |= _affine(f"{layer}.up", 4 * c, c) | _affine(f"{layer}.down", c, 4 * c)
            shapes |= _affine(f"{layer}.response", 4 * c)
    return shapes


def _affine(name: str, *shape: int) -> dict[str, tuple[int, ...]]:
    """Weight and bias of a layer, whose first axis is that of its outputs."""
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def _batch_norm(name: str, channels: int) -> dict[str, tuple[int, ...]]:
    statistics = {f"{name}.{what}": (channels,) for what in ("running_mean", "running_var")}
    return _affine(name, channels) | statistics | {f"{name}.{COUNTER}": ()}


def refuse_unlike(renamed: Mapping[str, str], wanted: Shapes, file: Path, config: ConformerConfig) -> None:
    """CheckpointError that names a missing or an extra tensor; some need not be in the file."""
    given = set(renamed.values())
    optional = {name for name in wanted if name.endswith(COUNTER) or name.startswith("frontend.")}
    missing, extra = wanted.keys() - given - optional, given - wanted.keys()
    if missing or extra:
        wrong = f"lacks {min(missing)}" if missing else f"holds {min(extra)}"
        raise CheckpointError(file, f"{wrong}, for {config.n_layers} blocks of width {config.dim}", AGAIN)


def beside(layout: Layout, config: ConformerConfig, state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What published weights need not hold: counters, window, filters, and the statistics of the log-mel."""
    file = layout.file or layout.weights
    more = {name: np.zeros((), np.int64) for name in shapes_of(config) if name.endswith(COUNTER)}
    if "frontend.window" not in state:
        more["frontend.window"] = hann_window(config.n_fft)
    if "frontend.filters" not in state:
        more["frontend.filters"] = mel_filters(config.n_mels, config.n_fft, config.sample_rate)
    held = {part: state[f"frontend.{part}"] for part in ("mean", "std") if f"frontend.{part}" in state}
    if len(held) < 2:
        values = layout.values.get("stat") if layout.kind == "muq" else layout.values
        numbers = [values.get(f"{STATISTIC}_{part}") if isinstance(values, dict) else None for part in ("mean", "std")]
        if not all(isinstance(number, int | float) and math.isfinite(number) for number in numbers):
            raise CheckpointError(file, f"has no {STATISTIC}_mean and _std", AGAIN)
        mean, std = (np.full(config.n_mels, number, np.float32) for number in numbers if number is not None)
        held = {"mean": mean, "std": std}
    if layout.kind == "mert-v2":
        held["std"] = held["std"].clip(min=LEAST_STD)
    if not (held["std"] > 0).all():
        raise CheckpointError(file, "has a deviation of the log-mel that is not positive", AGAIN)
    return more | {f"frontend.{part}": value for part, value in held.items()}


def squeezed(shape: Iterable[int]) -> tuple[int, ...]:
    """The shape without axes of length 1: published kernels of length 1 are our matrices.

    >>> squeezed((4, 1, 31))
    (4, 31)
    """
    return tuple(length for length in shape if length != 1)


def of_ours(values: Mapping[str, Any], shapes: Shapes) -> ConformerConfig:
    """The configuration of our own format."""
    if values.get("format_version") != 1:
        raise ValueError("its format_version is not 1: update mert-hub")
    return ConformerConfig.from_dict({key: values[key] for key in values if key not in ("format", "format_version")})


def of_mert_v2(values: Mapping[str, Any], shapes: Shapes) -> ConformerConfig:
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


def of_muq(values: Mapping[str, Any], shapes: Shapes) -> ConformerConfig:
    """The configuration of MuQ: depth and width are the outer ones, which override those of `w2v2_config`."""
    inner = values["w2v2_config"]
    return ConformerConfig(
        dim=values["encoder_dim"], n_layers=values["encoder_depth"], n_heads=inner["num_attention_heads"],
        ffn_dim=inner["intermediate_size"], conv_kernel=inner["conv_depthwise_kernel_size"],
        conv_dim=values["conv_dim"], n_mels=values["n_mels"], hop=values["hop_length"],
    )  # fmt: skip


def of_musicfm(values: Mapping[str, Any], shapes: Shapes) -> ConformerConfig:
    """The configuration of MusicFM, which has no config.json: by the shapes of its tensors."""
    blocks = {int(match[1]) for name in shapes if (match := re.match(r"model\.conformer\.layers\.(\d+)\.", name))}
    block, dim = "model.conformer.layers.0", shapes["model.conv.linear.weight"][0]
    return ConformerConfig(
        family="musicfm", dim=dim, n_layers=len(blocks),
        n_heads=dim // (2 * shapes["model.conformer.embed_positions.inv_freq"][0]),
        ffn_dim=shapes[f"{block}.ffn1.intermediate_dense.weight"][0],
        conv_kernel=shapes[f"{block}.conv_module.depthwise_conv.weight"][-1],
        conv_dim=shapes["model.conv.conv.0.conv1.weight"][0],
        n_mels=shapes["model.preprocessor_melspec_2048.mel_stft.mel_scale.fb"][1],
    )  # fmt: skip


CONFIGS = {"mert-hub": of_ours, "mert-v2": of_mert_v2, "muq": of_muq, "musicfm": of_musicfm}
