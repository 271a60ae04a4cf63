"""Names and configurations of the three checkpoint formats: ours, Hugging Face (HuBERT, MERT) and fairseq."""

import math
import re
import reprlib
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from mert.errors import CheckpointError
from mert.models.config import MertConfig, large_330m
from mert.models.interface import NetworkConfig

Style = Literal["huggingface", "fairseq"]

_BOTH = (".weight", ".bias")
_CONVS = "feature_extractor.conv_layers"
_POSITION = (".bias", ".parametrizations.weight.original0", ".parametrizations.weight.original1")
_ONCE = (  # ours, Hugging Face, fairseq, and the suffixes of each
    ("mask_embed", "masked_spec_embed", "mask_emb", ("",)),
    ("frontend.convs.0.norm", f"{_CONVS}.0.layer_norm", f"{_CONVS}.0.2", _BOTH),
    ("projection.norm", "feature_projection.layer_norm", "layer_norm", _BOTH),
    ("projection.linear", "feature_projection.projection", "post_extract_proj", _BOTH),
    ("encoder.position.conv", "encoder.pos_conv_embed.conv", "encoder.pos_conv.0", _POSITION),
    ("encoder.norm", "encoder.layer_norm", "encoder.layer_norm", _BOTH),
)
_CONV = ("frontend.convs.{}", _CONVS + ".{}.conv", _CONVS + ".{}.0", (".weight",))
_BLOCK = tuple(
    (f"encoder.blocks.{{}}.{ours}", f"encoder.layers.{{}}.{hf}", f"encoder.layers.{{}}.{fairseq}", _BOTH)
    for ours, hf, fairseq in (
        ("attention.query", "attention.q_proj", "self_attn.q_proj"),
        ("attention.key", "attention.k_proj", "self_attn.k_proj"),
        ("attention.value", "attention.v_proj", "self_attn.v_proj"),
        ("attention.out", "attention.out_proj", "self_attn.out_proj"),
        ("attention_norm", "layer_norm", "self_attn_layer_norm"),
        ("ffn.up", "feed_forward.intermediate_dense", "fc1"),
        ("ffn.down", "feed_forward.output_dense", "fc2"),
        ("ffn_norm", "final_layer_norm", "final_layer_norm"),
    )
)
_SPELLINGS = (  # weight norm as published, and as torch spells it today
    (".weight_g", ".parametrizations.weight.original0"),
    (".weight_v", ".parametrizations.weight.original1"),
)
_TRAINING_HEADS = re.compile(
    r"(final_proj|final_projs|encoder_cqt_model|encoder_mel_model|quantizer|project_hid|project_q)\..+"
    r"|label_embs_concat|logit_temp_list"
)
_PREFIX = "wav2vec2."  # of the network in a file of wav2vec 2.0 for pretraining, beside its heads
_FIELDS = {  # ours -> Hugging Face
    "dim": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "ffn_dim": "intermediate_size",
    "pre_norm": "do_stable_layer_norm",
    "conv_kernels": "conv_kernel",
    "conv_strides": "conv_stride",
    "position_kernel": "num_conv_pos_embeddings",
    "position_groups": "num_conv_pos_embedding_groups",
    "sample_rate": "sample_rate",
    "dropout": "hidden_dropout",
    "attention_dropout": "attention_dropout",
    "activation_dropout": "activation_dropout",
    "input_dropout": "feat_proj_dropout",
    "layer_drop": "layerdrop",
    "window_s": "window_s",  # ours alone: exports keep it, and transformers carries it along
}
_FIXED = {  # the same in every released MERT, and all that this model implements
    "feat_extract_norm": "group", "feat_extract_activation": "gelu", "feat_proj_layer_norm": True, "conv_bias": False,
    "feature_extractor_cqt": False, "deepnorm": False, "conv_pos_batch_norm": False, "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
}  # fmt: skip
_SPEECH = ("hubert", "wav2vec2")
_RELEASED_PRE_NORM = {(12, 768): False, (24, 1024): True}
_DEFAULT = MertConfig()


def names(config: MertConfig, style: Style) -> dict[str, str]:
    """Our name -> published name of every tensor (211 for the 95M, 403 for the 330M size).

    >>> names(MertConfig(), "fairseq")["encoder.blocks.3.ffn.up.bias"]
    'encoder.layers.3.fc1.bias'
    """
    rows = [(row, 0) for row in _ONCE] + [(_CONV, i) for i in range(len(config.conv_kernels))]
    rows += [(row, i) for i in range(config.n_layers) for row in _BLOCK]
    return {
        ours.format(i) + suffix: _published((hf if style == "huggingface" else fairseq).format(i) + suffix)
        for (ours, hf, fairseq, suffixes), i in rows
        for suffix in suffixes
    }


def to_ours(
    published: Iterable[str], config: MertConfig, style: Style | None, source: str = "weights"
) -> tuple[dict[str, str], tuple[str, ...]]:
    """(published name -> our name, names of training heads to drop); an unknown name stays as it is.

    Both spellings of weight norm are understood; a file that holds both at once is refused. No style: our names.
    """
    if style is None:
        return {name: name for name in published}, ()
    table = {theirs: ours for ours, theirs in names(config, style).items()}
    published = list(published)
    dropped = tuple(name for name in published if _TRAINING_HEADS.fullmatch(name))
    kept = {name: table.get(_published(name).removeprefix(_PREFIX), name) for name in published if name not in dropped}
    counts = Counter(kept.values())
    if twice := sorted(name for name, ours in kept.items() if counts[ours] > 1):
        raise CheckpointError(source, f"the same tensor under two names: {twice}", "remove one of them")
    return kept, dropped


def training_heads(published: Iterable[str]) -> list[str]:
    """The names of training heads in a fairseq checkpoint, without the fixed kernels of a transform beside them.

    >>> training_heads(["final_proj.weight", "encoder_cqt_model.spec_layer.lenghts", "mask_emb"])
    ['final_proj.weight']
    """
    return [name for name in published if _TRAINING_HEADS.fullmatch(name) and ".spec_layer." not in name]


def from_huggingface(
    values: Mapping[str, Any], preprocessor: Mapping[str, Any] | None = None, source: str = "config.json"
) -> MertConfig:
    """Read config.json (mert_model, music_hubert, hubert, wav2vec2) and, if given, preprocessor_config.json.

    Missing keys take the published 95M values, unknown keys are tolerated. CheckpointError for anything this
    model does not implement.

    >>> from_huggingface({"model_type": "hubert"}).frame_rate
    50.0
    """
    kind = values.get("model_type", "mert_model")
    if kind not in ("mert_model", "music_hubert", *_SPEECH):
        raise CheckpointError(source, f"model_type is {kind!r}", "give a checkpoint of MERT, HuBERT or wav2vec 2.0")
    for key, value in _FIXED.items():
        if values.get(key, value) != value:
            _refuse(source, key, values[key])
    preprocessor = preprocessor or {}
    rate = preprocessor.get("sampling_rate", 16_000 if kind in _SPEECH else 24_000)
    conv_dims = values.get("conv_dim", [_DEFAULT.conv_dim])
    if not isinstance(conv_dims, list) or len(set(map(str, conv_dims))) != 1:
        _refuse(source, "conv_dim", conv_dims)
    ours = {"sample_rate": rate, "conv_dim": conv_dims[0], "normalize": preprocessor.get("do_normalize", True)}
    ours |= {field: values[key] for field, key in _FIELDS.items() if key in values}
    window_s = _window_s(ours.get("pre_norm") is True, ours["sample_rate"])
    return _checked_config({"window_s": window_s, **ours}, source)


def to_huggingface(config: MertConfig) -> dict[str, Any]:
    """config.json of a plain `HubertModel`, which transformers loads without remote code."""
    if config.norm_eps != _FIXED["layer_norm_eps"]:
        _refuse("config", "norm_eps", config.norm_eps)
    ours = config.to_dict()
    return {
        "model_type": "hubert",
        "architectures": ["HubertModel"],
        **{key: ours[field] for field, key in _FIELDS.items()},
        **{k: v for k, v in _FIXED.items() if k not in ("deepnorm", "feature_extractor_cqt")},
        "conv_dim": [config.conv_dim] * len(config.conv_kernels),
        "num_feat_extract_layers": len(config.conv_kernels),
        "apply_spec_augment": False,  # as published, a call of .train() would mask the input
        "mask_time_prob": 0.05,  # not 0: HubertModel would then have no mask embedding
        "torch_dtype": "float32",
    }


def to_preprocessor(config: MertConfig) -> dict[str, Any]:
    """preprocessor_config.json for `Wav2Vec2FeatureExtractor`."""
    return {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor", "do_normalize": config.normalize,
        "sampling_rate": config.sample_rate, "feature_size": 1, "padding_side": "right", "padding_value": 0.0,
        "return_attention_mask": True,
    }  # fmt: skip


def from_fairseq(shapes: Mapping[str, tuple[int, ...]], cfg: object = None, source: str = "model.pt") -> MertConfig:
    """Infer the configuration from tensor shapes, and what does not follow from them from the training `cfg`."""
    for key, value in {"deepnorm": True, "conv_bias": True, "feature_extractor_cqt": True,
                       "conv_pos_batch_norm": True, "extractor_mode": "layer_norm"}.items():  # fmt: skip
        if find_setting(cfg, key) == value:
            _refuse(source, key, value)
    needed = ("layer_norm.weight", "encoder.layers.0.fc1.weight", "encoder.pos_conv.0.bias")
    position = {_published(name): shape for name, shape in shapes.items() if "pos_conv" in name}
    weight_v = position.get("encoder.pos_conv.0.weight_v", ())
    absent = [name for name in needed if name not in shapes]
    if absent or len(weight_v) != 3:
        reason = f"is no fairseq MERT: it lacks {absent or 'weight_v'}"
        raise CheckpointError(source, reason, "give a MERT checkpoint")
    ffn_dim, dim = shapes["encoder.layers.0.fc1.weight"]
    n_layers = sum(bool(re.fullmatch(r"encoder\.layers\.\d+\.fc1\.weight", name)) for name in shapes)
    kernels = tuple(shapes.get(f"{_CONVS}.{i}.0.weight", (0,))[-1] for i in range(len(_DEFAULT.conv_kernels)))
    if kernels != _DEFAULT.conv_kernels:
        _refuse(source, "kernels of feature_extractor.conv_layers", list(kernels))
    pre_norm = find_setting(cfg, "layer_norm_first")
    if pre_norm is None and (pre_norm := _RELEASED_PRE_NORM.get((n_layers, dim))) is None:
        reason = "neither cfg nor shapes say whether norms stand before or behind the sub-layers"
        raise CheckpointError(source, reason, "use a checkpoint whose cfg has model.layer_norm_first")
    rate = find_setting(cfg, "sample_rate") or 24_000
    values = {
        "dim": dim, "ffn_dim": ffn_dim, "n_layers": n_layers, "pre_norm": pre_norm, "sample_rate": rate,
        "n_heads": find_setting(cfg, "encoder_attention_heads") or dim // 64,
        "conv_dim": shapes["layer_norm.weight"][0], "position_kernel": weight_v[2],
        "position_groups": dim // max(1, weight_v[1]),
        "window_s": _window_s(bool(pre_norm), rate),
    }  # fmt: skip
    return _checked_config(values, source)


def from_mert_hub(values: Mapping[str, Any], source: str = "config.json") -> MertConfig:
    """Our own config.json; unknown keys are errors, because a newer version may depend on them."""
    if values.get("format_version") != 1:
        reason = f"format_version is {values.get('format_version')!r}, this library reads 1"
        raise CheckpointError(source, reason, "update mert-hub")
    kept = {key: value for key, value in values.items() if key not in ("format", "format_version")}
    return _checked_config(kept, source)


def to_mert_hub(config: NetworkConfig) -> dict[str, Any]:
    """config.json of our own format."""
    return {"format": "mert-hub", "format_version": 1, **config.to_dict()}


def find_setting(tree: object, name: str) -> bool | int | float | str | None:
    """The value called `name` that is nearest to the root of nested dicts, lists and objects; None if absent.

    >>> find_setting({"model": {"layer_norm_first": True}}, "layer_norm_first")
    True
    """
    queue, seen = deque([tree]), set()
    while queue:
        node = queue.popleft()
        if id(node) in seen or isinstance(node, str | bytes | int | float | None):
            continue
        seen.add(id(node))
        children = _children(node)
        value = _plain(children.get(name))
        if value is not None:
            return value
        queue.extend(children.values())
    return None


def _window_s(pre_norm: bool, sample_rate: object) -> float:
    """Training context of the released model of this kind, which published configurations do not record."""
    return (large_330m() if pre_norm and sample_rate == _DEFAULT.sample_rate else _DEFAULT).window_s


def _children(node: object) -> Mapping[Any, Any]:
    if isinstance(node, Mapping):
        return node
    if isinstance(node, list | tuple):
        return dict(enumerate(node))
    return getattr(node, "__dict__", {})


def _plain(value: object, depth: int = 3) -> bool | int | float | str | None:
    """A plain value, also from within the inert stand-in of an OmegaConf node or an enum."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    state, args = getattr(value, "state", None), getattr(value, "args", ())
    inner = state.get("_val") if isinstance(state, dict) else args[0] if args else None
    return _plain(inner, depth - 1) if depth else None


def _published(name: str) -> str:
    for old, new in _SPELLINGS:
        if name.endswith(new):
            return name.removesuffix(new) + old
    return name


def _checked_config(values: Mapping[str, Any], source: str) -> MertConfig:
    known = vars(_DEFAULT)
    checked = {k: _checked(k, v, known[k], source) if k in known else v for k, v in values.items()}
    try:
        return MertConfig.from_dict(checked)
    except CheckpointError as error:
        raise CheckpointError(source, error.reason, error.remedy) from None
    except ValueError as error:
        raise CheckpointError(source, str(error), "correct the file, or download it again") from None


def _checked(key: str, value: Any, default: Any, source: str) -> Any:
    """The value, if it has the type of the default and a sane size: configurations come from strangers."""
    limit = 1000 if key == "n_layers" else 10**6
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(default, bool):
        good = isinstance(value, bool)
    elif isinstance(default, int):
        good = number and isinstance(value, int) and 1 <= value <= limit
    elif isinstance(default, float):
        good = number and 0 <= value <= limit and math.isfinite(value)  # first the range: an integer may be no float
        value = float(value) if good else value
    else:
        good = isinstance(value, list | tuple) and 0 < len(value) <= 64
        good = good and all(_checked(key, v, 1, source) for v in value)
    if not good:
        raise CheckpointError(source, f"{key} is {reprlib.repr(value)}", "correct the file, or download it again")
    return value


def _refuse(source: str, key: str, value: object) -> None:
    reason = f"{key} is {value!r}, which this library does not implement"
    raise CheckpointError(source, reason, "use one of the released MERT models")
