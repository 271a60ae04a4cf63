"""Recipes: everything a pretraining run depends on, as one frozen configuration; named ones are functions."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from operator import attrgetter
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import torch
import yaml

from mert.errors import UsageError
from mert.inference.kernels import has_bfloat16
from mert.models.config import MertConfig, base_95m, large_330m, nano
from mert.train.augmentation import Augmentation
from mert.train.mixing import Mixing
from mert.train.objective import Weights
from mert.train.schedule import learning_rate
from mert.weights.registry import bundled

log = logging.getLogger("mert")
MINIMA = {
    "steps": 1, "batch_clips": 1, "group_clips": 1, "checkpoint_every": 1, "validate_every": 1, "keep_checkpoints": 1,
    "class_width": 1, "mask_length": 1, "max_bad_steps": 1, "seed": 0, "validate_clips": 0, "clips_at_once": 0,
    "warmup_steps": 0, "extra_classes": 0, "clip_s": 0, "min_clip_s": 0, "frozen_frontend_steps": 0, "probe_every": 0,
}  # fmt: skip
FREE_OF_MODEL = {
    "dropout",
    "attention_dropout",
    "activation_dropout",
    "input_dropout",
    "layer_drop",
}  # of trained weights
MAX_DEPTH = 50  # of a recipe file
OPENING = (
    yaml.FlowSequenceStartToken, yaml.FlowMappingStartToken, yaml.BlockSequenceStartToken, yaml.BlockMappingStartToken,
)  # fmt: skip
CLOSING = (yaml.FlowSequenceEndToken, yaml.FlowMappingEndToken, yaml.BlockEndToken)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One pretraining run. The batch, the masks and the learning rate are pure functions of it and of the step.

    `data` is a folder, a JSONL manifest, `synth`, or `hf:NAME` for the datasets library; `teachers` are names or
    folders. `init` names trained weights to go on from (a model, a run, or a fairseq file), whose configuration is then
    `model`; `heads` are kept where they were trained on the same teacher (auto), or all of them (keep), or begin anew
    (new). The front end does not change in the first `frozen_frontend_steps`. A batch is `batch_clips` clips in groups
    of `group_clips`, the unit of mixing and masking. `clips_at_once` (0: all of a group) bounds the memory: the model
    takes that many clips at a time, and gradients add up. The informed initialisation of `mert.train.initialisation`
    (`filterbank_start`, `codebook_start`) is ours; the paper's weights begin at random. UsageError names the field that
    is out of range, its value, and what it may be.
    """

    out: str = "run"
    data: str = "synth"
    data_options: dict[str, Any] = field(default_factory=dict)
    data_weights: tuple[float, ...] = ()
    loader_workers: int | str = "auto"
    teachers: tuple[str, ...] = ("random_projection", "cqt")
    init: str = ""
    heads: str = "auto"
    frozen_frontend_steps: int = 0
    model: MertConfig = field(default_factory=nano)
    seed: int = 1337
    steps: int = 1000
    checkpoint_every: int = 200
    validate_every: int = 200
    validate_clips: int = 32
    validate_share: float = 0.1
    validate_on: str = ""
    probe_every: int = 0
    probe_tasks: tuple[str, ...] = ("nsynth_pitch", "nsynth_instrument", "gtzan_genre", "giantsteps_key")
    keep_checkpoints: int = 2
    batch_clips: int = 16
    group_clips: int = 16
    clips_at_once: int = 0
    clip_s: float = 5.0
    min_clip_s: float = 0.0
    lr: float = 5e-4
    warmup_steps: int = 100
    weight_decay: float = 0.01
    betas: tuple[float, ...] = (0.9, 0.98)
    eps: float = 1e-6
    clip_norm: float = 10.0
    class_width: int = 64
    filterbank_start: bool = False
    codebook_start: bool = False
    extra_classes: int = 0
    mask_probability: float = 0.8
    mask_length: int = 5
    augmentation: Augmentation = field(default_factory=Augmentation)
    mixing: Mixing = field(default_factory=Mixing)
    weights: Weights = field(default_factory=Weights)
    dtype: str = "float32"
    compile: bool = False
    activation_checkpointing: bool = False
    parallel: str = "ddp"
    max_bad_steps: int = 5

    def __post_init__(self) -> None:
        for name, minimum in MINIMA.items():
            if not minimum <= (value := getattr(self, name)) < math.inf:
                raise UsageError("recipe", f"{name}={value}", f"give {minimum} or more")
        clip_s = 2 * self.model.receptive_field / self.model.sample_rate
        mixing, group = self.mixing, f"group_clips={self.group_clips}"
        good_betas = len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas)
        rules = [
            (self.batch_clips % self.group_clips == 0, "batch_clips", f"give a multiple of {group}"),
            (self.parallel in ("ddp", "fsdp"), "parallel", "give ddp or fsdp"),
            (self.heads in ("auto", "keep", "new"), "heads", "give auto, keep or new"),
            (self.dtype in ("auto", "float32", "bfloat16"), "dtype", "give auto, float32 or bfloat16"),
            (self.warmup_steps < self.steps, "warmup_steps", f"give 0 to {self.steps - 1}, or more steps"),
            (bool(self.teachers), "teachers", "name at least one teacher"),
            (self.clip_samples >= 2 * self.model.receptive_field, "clip_s", f"give at least {clip_s:.4f}"),
            (good_betas, "betas", "give two numbers from 0 to below 1"),
            (self.min_clip_s <= self.clip_s, "min_clip_s", f"give at most clip_s={self.clip_s:g}"),
            (0 <= self.validate_share <= 0.5, "validate_share", "give 0 to 0.5"),
            (all(weight > 0 for weight in self.data_weights), "data_weights", "give numbers above 0"),
            (
                self.loader_workers == "auto" or _is_count(self.loader_workers),
                "loader_workers",
                "give auto, or 0 or more",
            ),
            (0 <= self.mask_probability <= 1, "mask_probability", "give 0 to 1"),
            (0 <= mixing.apply_prob <= 1, "mixing.apply_prob", "give 0 to 1"),
            *(
                (0 <= chance <= 1, f"augmentation.{name}", "give 0 to 1")
                for name, chance in asdict(self.augmentation).items()
            ),
            (self.seed < 2**63, "seed", f"give 0 to {2**63 - 1}"),
            (self.clip_norm > 0, "clip_norm", "give a number above 0"),
            (0 <= mixing.shortest <= mixing.longest, "mixing.shortest", f"give 0 to mixing.longest={mixing.longest}"),
            *((0 <= getattr(self, name) < math.inf, name, "give 0 or more") for name in ("lr", "weight_decay", "eps")),
        ]
        shown = {"warmup_steps": f"{self.warmup_steps} with steps={self.steps}", "teachers": ""}
        for good, name, remedy in rules:
            if not good:
                raise UsageError("recipe", f"{name}={shown.get(name, attrgetter(name)(self))}", remedy)

    def on(self, device: torch.device) -> "Recipe":
        """The recipe as it runs on a device, with its `dtype`; warnings name what is emulated, or has no effect."""
        if self.mixing.apply_prob and (self.group_clips < 2 or self.mixing.longest > self.clip_samples):
            reason = f"groups of {self.group_clips}, clips of {self.clip_samples} samples"
            log.warning("no clips are mixed (%s): give group_clips=2 or more, and a mixing.longest that fits", reason)
        on_gpu = device.type == "cuda"
        native = torch.cuda.is_bf16_supported(including_emulation=False) if on_gpu else has_bfloat16(device.type)
        if self.dtype == "bfloat16" and not native:
            where = "GPU" if on_gpu else "CPU"
            log.warning("dtype=bfloat16 is emulated on this %s and takes several times as long: give float32", where)
        if self.dtype != "auto":
            return self
        return replace(self, dtype="bfloat16" if native and on_gpu else "float32")

    @property
    def n_groups(self) -> int:
        """Groups of a batch."""
        return self.batch_clips // self.group_clips

    @property
    def clip_samples(self) -> int:
        """Samples of a training clip."""
        return round(self.clip_s * self.model.sample_rate)

    @property
    def min_samples(self) -> int:
        """Samples of the shortest recording that is trained on: a clip, unless `min_clip_s` is given."""
        return round((self.min_clip_s or self.clip_s) * self.model.sample_rate)

    def probes(self, step: int) -> bool:
        """Whether heads are fitted and scored after this step."""
        return self.probe_every > 0 and (step % self.probe_every == 0 or step == self.steps)

    def lr_at(self, step: int) -> float:
        """Learning rate of update `step`, from 1.

        >>> recipe = v1_95m()
        >>> recipe.lr_at(32_000) == recipe.lr, round(recipe.lr_at(65_000) / recipe.lr, 3), recipe.lr_at(400_000)
        (True, 0.91, 0.0)
        """
        return learning_rate(step, self.steps, self.warmup_steps, self.lr)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as YAML and JSON hold them."""
        return asdict(self) | {"model": self.model.to_dict(), "teachers": list(self.teachers)}


def raw(model: MertConfig) -> MertConfig:
    """The configuration of a model that is trained on samples as they are; published ones say otherwise."""
    return replace(model, normalize=False)


def nano_recipe() -> Recipe:
    """`nano`: a small model on synthesised music, for two cores: short clips, informed initialisation, no dropout."""
    return Recipe(
        out="nano_run", steps=2000, warmup_steps=100, batch_clips=32, group_clips=16, clip_s=1.0, lr=2e-3,
        clip_norm=1.0, weights=Weights(frames=5.0, penalty=0.1, feature_grad=1.0), validate_clips=256,
        mixing=Mixing(shortest=2_400, longest=6_000), filterbank_start=True, codebook_start=True,
    )  # fmt: skip


def v1_95m() -> Recipe:
    """`v1_95m`: MERT-v1-95M as its configuration says (64 groups of 16 clips of 5 s)."""
    return Recipe(
        out="v1_95m_run", data="music", teachers=("encodec", "cqt"), model=raw(base_95m()), steps=400_000,
        warmup_steps=32_000, checkpoint_every=5_000, validate_every=5_000, batch_clips=1024, group_clips=16,
        min_clip_s=3.0, dtype="auto",
    )  # fmt: skip


def v1_330m() -> Recipe:
    """`v1_330m`: MERT-v1-330M (64 x 8 groups of 7 clips of 5.12 s, no dropout, clip norm 1)."""
    return Recipe(
        out="v1_330m_run", data="music", teachers=("encodec", "cqt"), model=raw(large_330m()), steps=400_000,
        warmup_steps=32_000, checkpoint_every=1_000, validate_every=5_000, batch_clips=3584, group_clips=7,
        min_clip_s=3.0, clip_s=5.12, lr=1.5e-3, clip_norm=1.0, class_width=128, dtype="bfloat16",
        activation_checkpointing=True, mixing=Mixing(longest=36_000), weights=Weights(feature_grad=1.0),
    )  # fmt: skip


def v0_95m() -> Recipe:
    """`v0_95m`: k-means codes and CQT at 16 kHz and 50 Hz, after the paper: no configuration of the v0 family exists.

    Fit its teacher first: `mert fit-teacher kmeans`.
    """
    return replace(
        v1_95m(), out="v0_95m_run", teachers=("kmeans_teacher", "cqt"), mixing=Mixing(shortest=8_000, longest=16_000),
        model=replace(raw(base_95m()), sample_rate=16_000),
    )  # fmt: skip


def adapt(model: MertConfig | None = None) -> Recipe:
    """`adapt`: on from trained weights (`init`), on clips as long as they were trained on, at a low learning rate."""
    model = model or nano()
    window_samples = round(model.window_s * model.sample_rate)
    return Recipe(
        out="adapt_run", data="music", model=model, clip_s=model.window_s, steps=1000, warmup_steps=100, lr=1e-4,
        batch_clips=16, clip_norm=1.0, weights=Weights(frames=1.0, penalty=0.1, feature_grad=0.1),
        mixing=Mixing(shortest=window_samples // 10, longest=window_samples // 5), codebook_start=True, dtype="auto",
    )  # fmt: skip


NAMED: dict[str, Callable[[], Recipe]] = {
    "nano": nano_recipe, "v0_95m": v0_95m, "v1_95m": v1_95m, "v1_330m": v1_330m, "adapt": adapt,
}  # fmt: skip


def read_recipe(
    config: str, overrides: Sequence[str] = (), model_of: Callable[[str], MertConfig] | None = None
) -> Recipe:
    """A named recipe, that of a bundled model or of a folder, or a YAML file (with a `base`), changed by `key=value`.

    Keys may be dotted (`mixing.apply_prob=0`); values are YAML, checked against the type of their field; a teacher's
    weight of null is left out. Where `steps` is given without `warmup_steps`, the warm-up is that of the base, but at
    most a tenth of the steps; so is that of a file if it is no shorter than the `steps=` that override it. Likewise
    groups are no larger than a given batch. `model_of` gives the configuration of the weights that `init` names.
    UsageError for unknown keys and values that do not fit.
    """
    base, values = read_settings(config, overrides)
    recipe, prefix = NAMED[base](), f"{config}: "
    init = _typed(f"{prefix}init", values.get("init", recipe.init), str)
    if base == "adapt" and model_of and not init:
        raise UsageError(config, "goes on from trained weights", "give init=NAME, such as init=mert-nano")
    if init and model_of:
        trained = model_of(init)
        recipe = adapt(trained) if base == "adapt" else replace(recipe, model=trained)
    overridden = {parse_override(override)[0] for override in overrides}
    for given, derived in (("steps", "warmup_steps"), ("batch_clips", "group_clips")):
        if given not in values or derived in overridden:
            continue
        most = _typed(f"{prefix}{given}", values[given], int)
        before = _typed(f"{prefix}{derived}", values.get(derived, getattr(recipe, derived)), int)
        is_outdated = given in overridden and before >= most
        if derived not in values or is_outdated:
            values[derived] = min(before, max(most // 10, 0) if given == "steps" else max(most, 1))
    recipe = changed(recipe, values, prefix)
    if init and model_of:
        refuse_other_model(recipe, trained)
    return recipe


def read_settings(config: str, overrides: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """The name of the base of a recipe, and the values that differ from it, nested as in a file."""
    values = {} if config in NAMED else read_values(config)
    base = values.pop("base", "nano") if config not in NAMED else config
    if not isinstance(base, str) or base not in NAMED:
        raise UsageError(f"{config}: base={base}", "is no recipe", f"give one of {', '.join(NAMED)}")
    if any(parse_override(override)[0] == "data" for override in overrides):
        values.pop("data_options", None)  # those of the file are of other data
    for override in overrides:
        key, value = parse_override(override)
        target = values
        *parents, last = key.split(".")
        for parent in parents:
            target = target.setdefault(parent, {})
            if not isinstance(target, dict):
                reason = f"{parent}={target} of {config} has no keys of its own"
                raise UsageError(override, reason, f"give {parent}=VALUE")
        target[last] = value
    return base, values


def refuse_other_model(recipe: Recipe, trained: MertConfig) -> None:
    """UsageError if the recipe asks for another model than the weights it goes on from can fill."""
    for key, old in trained.to_dict().items():
        if key not in FREE_OF_MODEL and (new := recipe.model.to_dict()[key]) != old:
            remedy = f"leave it out; of trained weights only {', '.join(sorted(FREE_OF_MODEL))} can change"
            raise UsageError(f"model.{key}={new}", f"the weights of init={recipe.init} have {old}", remedy)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and value >= 0


def read_values(config: str) -> dict[str, Any]:
    """The mapping in a recipe file; UsageError if it cannot be read."""
    path = bundled(config) or Path(config)
    try:
        values = plain_yaml((path / "recipe.yaml" if path.is_dir() else path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        known = ", ".join(["mert-nano", "mert-nano-1", *NAMED])
        raise UsageError(config, f"no recipe of this name or file ({error})", f"try {known}") from None
    if not isinstance(values, dict):
        raise UsageError(config, "holds no mapping", "write `key: value` lines")
    return values


def plain_yaml(text: str) -> Any:
    """The values in a YAML text; YAMLError for aliases, by which a few lines stand for gigabytes, and deep nesting."""
    depth = 0
    for token in yaml.scan(text):
        depth += isinstance(token, OPENING) - isinstance(token, CLOSING)
        if isinstance(token, yaml.AliasToken):
            raise yaml.YAMLError("it uses aliases (*name): write the values out")
        if depth > MAX_DEPTH:  # reading takes the square of the depth
            raise yaml.YAMLError(f"it is nested more than {MAX_DEPTH} deep")
    return yaml.safe_load(text)


def parse_override(text: str) -> tuple[str, Any]:
    """Key and value of `key=value`: the value is YAML, or else text, and always text where the recipe wants that.

    >>> parse_override("mixing.apply_prob=0"), parse_override("validate_on=*/live/*"), parse_override("out=2024")
    (('mixing.apply_prob', 0), ('validate_on', '*/live/*'), ('out', '2024'))
    """
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise UsageError(text, "is not key=value", "write for example steps=1000")
    try:
        read = plain_yaml(value)
    except yaml.YAMLError:  # a pattern such as *.wav
        return key, value
    is_text = get_type_hints(Recipe).get(key) is str and read is not None
    return key, value if is_text and not isinstance(read, str) else read  # a folder may be called 2024, or on


def changed(instance: Any, values: Any, path: str) -> Any:
    """A copy of a frozen dataclass with some fields set; `path` precedes their names in the messages of UsageError."""
    if not isinstance(values, Mapping):
        raise UsageError(f"{path.rstrip('. :')}={values!r}", "has the wrong type", "give key: value pairs")
    hints = get_type_hints(type(instance))
    known = {f.name for f in fields(instance)}
    new = {}
    for key, value in values.items():
        name = f"{path}{key}"
        if key not in known:
            raise UsageError(name, "unknown key", f"known are {', '.join(sorted(known))}")
        old = getattr(instance, key)
        new[key] = changed(old, value, f"{name}.") if is_dataclass(old) else _typed(name, value, hints[key])
    try:
        return replace(instance, **new)
    except (ValueError, ZeroDivisionError) as error:  # of MertConfig
        raise UsageError(path.rstrip(". :"), str(error), "change these values") from None


def _typed(name: str, value: Any, kind: Any) -> Any:
    origin = get_origin(kind) or kind
    if origin is UnionType:
        if isinstance(value, get_args(kind)) and not isinstance(value, bool):
            return value
    elif origin is tuple:
        items = value.split(",") if isinstance(value, str) else value
        if isinstance(items, list | tuple):
            stripped = [item.strip() if isinstance(item, str) else item for item in items]
            return tuple(_typed(name, item, get_args(kind)[0]) for item in stripped)
    elif origin is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            return float(value)  # YAML reads 1e-3 as text
        except ValueError:
            pass
    elif kind == dict[str, float] and isinstance(value, dict):
        return {key: _typed(f"{name}.{key}", item, float) for key, item in value.items() if item is not None}
    elif isinstance(value, origin) and (origin is bool or not isinstance(value, bool)):
        return value
    raise UsageError(f"{name}={value!r}", "has the wrong type", f"give {getattr(kind, '__name__', kind)}")
