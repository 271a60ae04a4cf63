"""Names and configurations of published checkpoints."""

import json
import math
import re
from pathlib import Path

import pytest
import torch

from mert.errors import CheckpointError
from mert.models.config import MertConfig, base_95m, large_330m, nano
from mert.models.mert import Mert
from mert.weights import formats

KEYS = json.loads((Path(__file__).parents[1] / "data" / "mert_keys.json").read_text())
SIZES = {"MERT-v1-95M": (base_95m(), 211, 94_371_712), "MERT-v1-330M": (large_330m(), 403, 315_428_992)}
MODERN = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1"}


def shapes_of(config: MertConfig) -> dict[str, list[int]]:
    with torch.device("meta"):
        return {name: list(tensor.shape) for name, tensor in Mert(config).state_dict().items()}


@pytest.mark.parametrize("size", SIZES)
def test_names_and_shapes_are_those_of_the_published_files(size: str) -> None:
    config, count, total = SIZES[size]
    shapes = shapes_of(config)
    assert len(shapes) == count and sum(math.prod(shape) for shape in shapes.values()) == total
    for style, published in (("huggingface", KEYS[size]), ("fairseq", KEYS["fairseq"][size])):
        table = formats.names(config, style)
        kept, dropped = formats.to_ours(published, config, style)
        assert {table[name]: shape for name, shape in shapes.items()} == {name: published[name] for name in kept}
        assert set(kept.values()) == set(shapes)
        assert dropped == tuple(name for name in published if KEYS["fairseq_to_hf"][size].get(name, name) is None)


@pytest.mark.parametrize("size", SIZES)
def test_fairseq_and_hugging_face_names_map_both_ways(size: str) -> None:
    config = SIZES[size][0]
    hf, fairseq = formats.names(config, "huggingface"), formats.names(config, "fairseq")
    there = {fairseq[name]: hf[name] for name in hf}
    assert there == {k: v for k, v in KEYS["fairseq_to_hf"][size].items() if v is not None}
    assert {v: k for k, v in there.items()} == {hf[name]: fairseq[name] for name in hf}


def test_both_spellings_of_weight_norm_are_read_and_together_refused() -> None:
    config = nano()
    old = list(formats.names(config, "huggingface").values())
    new = [re.sub("weight_[gv]$", lambda match: MODERN[match[0]], name) for name in old]
    assert sum("original" in name for name in new) == 2
    read_old, read_new = (formats.to_ours(names, config, "huggingface")[0] for names in (old, new))
    assert list(read_old.values()) == list(read_new.values())
    assert set(read_new.values()) == set(shapes_of(config))
    with pytest.raises(CheckpointError, match=r"two names.*weight_g"):
        formats.to_ours(dict.fromkeys(old + new), config, "huggingface")


def test_unknown_names_stay_to_be_reported() -> None:
    assert formats.to_ours(["surprise.weight"], nano(), "fairseq") == ({"surprise.weight": "surprise.weight"}, ())


V1_95M = {
    "architectures": ["MERTModel"], "model_type": "mert_model", "activation_dropout": 0.0, "attention_dropout": 0.1,
    "hidden_dropout": 0.1, "feat_proj_dropout": 0.1, "layerdrop": 0.05, "attention_relax": -1.0, "deepnorm": False,
    "do_stable_layer_norm": False, "feat_extract_norm": "group", "feat_extract_activation": "gelu",
    "feat_proj_layer_norm": True, "feature_extractor_cqt": False, "conv_bias": False, "conv_dim": [512] * 7,
    "conv_kernel": [10, 3, 3, 3, 3, 2, 2], "conv_stride": [5, 2, 2, 2, 2, 2, 2], "num_conv_pos_embeddings": 128,
    "num_conv_pos_embedding_groups": 16, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
    "intermediate_size": 3072, "hidden_act": "gelu", "layer_norm_eps": 1e-05, "sample_rate": 24000, "vocab_size": 32,
}  # fmt: skip
V1_330M = {
    **V1_95M, "do_stable_layer_norm": True, "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16,
    "intermediate_size": 4096, "attention_relax": 32.0, "attention_dropout": 0.0, "hidden_dropout": 0.0,
    "feat_proj_dropout": 0.0, "layerdrop": 0.0, "mask_time_other": 0.0,
}  # fmt: skip


def test_published_configurations() -> None:
    assert formats.from_huggingface(V1_95M) == base_95m()
    assert formats.from_huggingface(V1_330M, {"do_normalize": True}) == large_330m()
    assert formats.from_huggingface({"model_type": "mert_model"}) == base_95m()
    assert formats.from_huggingface({}, {"do_normalize": False}).normalize is False


def test_v0_has_16_khz_and_50_frames_a_second() -> None:
    v0 = formats.from_huggingface({"model_type": "music_hubert", "sample_rate": 16000, "layerdrop": 0.1})
    plain = formats.from_huggingface({"model_type": "hubert", "do_stable_layer_norm": True})
    assert (v0.sample_rate, v0.frame_rate, v0.window_s) == (16_000, 50.0, 5.0)
    assert (plain.sample_rate, plain.window_s) == (16_000, 5.0)
    assert formats.from_huggingface({}, {"sampling_rate": 16000}).sample_rate == 16_000


@pytest.mark.parametrize(
    ("key", "value"),
    [("feat_extract_norm", "layer"), ("conv_bias", True), ("feature_extractor_cqt", True), ("deepnorm", True),
     ("conv_pos_batch_norm", True), ("hidden_act", "gelu_new"), ("layer_norm_eps", 1e-12), ("model_type", "wavlm"),
     ("conv_dim", [512, 256]), ("hidden_size", "768"), ("hidden_size", 10**9), ("num_hidden_layers", 10**6),
     ("do_stable_layer_norm", 1), ("hidden_dropout", float("nan")),
     ("hidden_dropout", 10**400), ("conv_kernel", []), ("num_attention_heads", 7)],
)  # fmt: skip
def test_what_is_not_implemented_or_not_sane_is_refused(key: str, value: object) -> None:
    with pytest.raises(CheckpointError, match=r"file\.json: "):
        formats.from_huggingface({**V1_95M, key: value}, source="file.json")


@pytest.mark.parametrize("config", [nano(), base_95m(), large_330m(), MertConfig(sample_rate=16_000, window_s=7.5)])
def test_configurations_survive_both_formats(config: MertConfig) -> None:
    assert formats.from_mert_hub(json.loads(json.dumps(formats.to_mert_hub(config)))) == config
    hubert, preprocessor = formats.to_huggingface(config), formats.to_preprocessor(config)
    assert formats.from_huggingface(json.loads(json.dumps(hubert)), preprocessor) == config


def test_our_own_format_knows_its_version_and_keys() -> None:
    good = formats.to_mert_hub(nano())
    for bad in ({**good, "format_version": 2}, {**good, "new_key": 1}, {**good, "dim": "256"}, {**good, "dim": 255}):
        with pytest.raises(CheckpointError):
            formats.from_mert_hub(bad)


@pytest.mark.parametrize("size", SIZES)
def test_fairseq_shapes_tell_the_released_sizes(size: str) -> None:
    shapes = {name: tuple(shape) for name, shape in KEYS["fairseq"][size].items()}
    read, config = formats.from_fairseq(shapes), SIZES[size][0]
    for field in ("dim", "n_layers", "n_heads", "ffn_dim", "pre_norm", "conv_dim", "position_kernel",
                  "position_groups", "sample_rate", "window_s", "normalize"):  # fmt: skip
        assert getattr(read, field) == getattr(config, field)


def test_fairseq_settings_decide_where_shapes_cannot() -> None:
    shapes = {name: tuple(shape) for name, shape in KEYS["fairseq"]["MERT-v1-95M"].items() if ".layers.11" not in name}
    with pytest.raises(CheckpointError, match="before or behind"):
        formats.from_fairseq(shapes)
    settings = {"cfg": {"task": {"sample_rate": 16000}, "model": {"layer_norm_first": True}}, "args": None}
    read = formats.from_fairseq(shapes, settings)
    assert (read.n_layers, read.pre_norm, read.sample_rate) == (11, True, 16_000)
    with pytest.raises(CheckpointError, match="deepnorm"):
        formats.from_fairseq(shapes, {"model": [{"deepnorm": True}]})
    with pytest.raises(CheckpointError, match="lacks"):
        formats.from_fairseq({"mask_emb": (768,)})


def test_settings_are_found_in_cycles() -> None:
    cfg: dict[str, object] = {"a": 1}
    cfg["self"] = [cfg]
    assert formats.find_setting(cfg, "a") == 1
    assert formats.find_setting(cfg, "b") is None
