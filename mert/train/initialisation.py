"""Initial weights: at random, informed, so that a small model learns in an hour, or those of a trained model.

Shapes: C channels or codes, K taps, F filters, N samples, E embedding width, D dimensions of a codeword.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

from mert.errors import UsageError
from mert.models.config import MertConfig, nano
from mert.models.frontend import ConvFrontend
from mert.models.mert import Mert
from mert.train.objective import CodeHead, Pretrainer, Weights
from mert.train.recipe import Recipe
from teachers.base import TargetSource

MIN_HZ, MAX_SHARE = 50.0, 0.9  # the bands of the second layer: from there to this share of half the rate
PHASES = 3  # the half waves of three phases add up to 0.87 to 1 of the magnitude, those of four to 1 to 1.41
LEVEL_HZ = 667.0  # gain 1 here, rising by 6 dB per octave: the median band of music of variance 1 is then about 1


@dataclass(frozen=True, kw_only=True)
class PretrainerConfig:
    """All that determines a new `Pretrainer`, keyed by teacher: `n_classes`, `n_bins`, `n_clip_values` and `teachers`.

    `codebook_start` lists the teachers (names or folders) whose codewords initialise the class embeddings. `init` names
    the weights to go on from, `heads` says which heads are kept, and `teachers` holds their fingerprints.
    """

    model: MertConfig = field(default_factory=nano)
    n_classes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    n_bins: dict[str, int] = field(default_factory=dict)
    n_clip_values: dict[str, int] = field(default_factory=dict)
    class_width: int = 64
    extra_classes: int = 0
    weights: Weights = field(default_factory=Weights)
    seed: int = 1337
    filterbank_start: bool = False
    codebook_start: tuple[str, ...] = ()
    init: str = ""
    heads: str = "auto"
    teachers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, recipe: Recipe, teachers: Mapping[str, TargetSource]) -> Self:
        """The configuration of a recipe with its loaded teachers; UsageError if it weights any other."""
        if unknown := sorted(recipe.weights.teachers.keys() - teachers.keys()):
            raise UsageError(f"weights.teachers={unknown}", "names no teacher of this run", f"give {list(teachers)}")
        return cls(
            model=recipe.model,
            n_classes={name: teacher.n_classes for name, teacher in teachers.items() if teacher.n_classes},
            n_bins={name: teacher.n_bins for name, teacher in teachers.items() if teacher.n_bins},
            n_clip_values={name: teacher.n_clip_values for name, teacher in teachers.items() if teacher.n_clip_values},
            class_width=recipe.class_width, extra_classes=recipe.extra_classes, weights=recipe.weights,
            seed=recipe.seed, filterbank_start=recipe.filterbank_start,
            codebook_start=recipe.teachers if recipe.codebook_start else (),
            init=recipe.init, heads=recipe.heads,
            teachers={name: teacher.fingerprint for name, teacher in teachers.items()},
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TrainedHead:
    """The tensors of a head under our names, and the fingerprint of its teacher, if it is on record."""

    state: Mapping[str, Tensor]
    teacher: str | None = None


@dataclass(frozen=True, kw_only=True)
class Start:
    """A trained model that a run goes on from: its configuration, weights and heads, and the record of it (`base`).

    `base` has `name`, `sha256`, `licence` and `revision`; `heads` are keyed by teacher.
    """

    config: MertConfig
    state: Mapping[str, Tensor]
    base: Mapping[str, str | None]
    heads: Mapping[str, TrainedHead] = field(default_factory=dict)


def new_pretrainer(
    config: PretrainerConfig, codebooks: Mapping[str, Sequence[Tensor]], start: Start | None = None
) -> Pretrainer:
    """A pretrainer with initial weights drawn from the seed, or with a model that goes on from trained ones.

    `codebooks` holds the codewords of the teachers in `config.codebook_start`, keyed by teacher. UsageError if a head
    is to be kept and cannot be.
    """
    torch.manual_seed(config.seed)
    objective = Pretrainer(
        Mert(config.model), config.n_classes, config.n_bins, config.class_width, config.weights, config.extra_classes,
        config.n_clip_values,
    )  # fmt: skip
    if start:
        objective.model.load_state_dict(start.state)
    elif config.filterbank_start:
        init_filterbank(objective.model.frontend, config.model.sample_rate)
    for name in config.n_classes:
        if config.codebook_start:
            head = objective.code_heads[name]
            assert isinstance(head, CodeHead)
            init_classes(head, codebooks[name], name)
    for name, state in kept_heads(config, objective, start).items():
        objective.head_of(name).load_state_dict(state)
    return objective


def kept_heads(config: PretrainerConfig, objective: Pretrainer, start: Start | None) -> dict[str, dict[str, Tensor]]:
    """The tensors of the heads that go on, by teacher: those that were trained on the same one, and have its shapes.

    UsageError if all are to be kept, and one cannot be.
    """
    kept: dict[str, dict[str, Tensor]] = {}
    for name, fingerprint in config.teachers.items():
        head = objective.head_of(name)
        trained = {} if start is None or config.heads == "new" else start.heads
        same = [
            other.state
            for key, other in trained.items()
            if (other.teacher == fingerprint if other.teacher else key == name)
        ]
        wanted = {key: tensor.shape for key, tensor in head.state_dict().items()}
        fitting = [state for found in same if shapes(state := without_unused(found, head)) == wanted]
        if fitting:
            kept[name] = fitting[0]
        elif config.heads == "keep":
            reason = f"{config.init or 'random weights'} has no head of {name} with these classes and class_width"
            raise UsageError("heads=keep", reason, "give heads=auto to begin anew where none fits")
    return kept


def shapes(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    """The shape of each tensor."""
    return {name: tensor.shape for name, tensor in state.items()}


def without_unused(state: Mapping[str, Tensor], head: nn.Module) -> dict[str, Tensor]:
    """The tensors of a trained head without the unused classes before its codes that this head does not have.

    fairseq puts four before the codes of each codebook.
    """
    if isinstance(head, CodeHead) and len(set(head.sizes)) == 1 and "classes" in state:
        n_more, rest = divmod(len(state["classes"]) - sum(head.sizes), len(head.sizes))
        if n_more > 0 and not rest:
            classes_KCE = state["classes"].unflatten(0, (len(head.sizes), -1))
            return dict(state) | {"classes": classes_KCE[:, n_more:].flatten(0, 1)}
    return dict(state)


@torch.no_grad()
def init_filterbank(frontend: ConvFrontend, rate_hz: int) -> None:
    """Initialise a front end of two convolutions as mel-spaced bands over its whole receptive field.

    The first layer passes the samples on, one tap per channel. All its channels have the level of the clip, so the
    norm after it removes that level and keeps the spectrum; a norm after filters would equalise the bands and hide
    timbre. Every channel also exists with the opposite sign, as GELU(x) - GELU(-x) = x: the input of the second layer
    is then linear in the wave. It has `PHASES` phases of each band, whose half waves add up to nearly its magnitude.
    Spare channels of the first layer are short filters to which the second gives weight 0; spare ones of the second
    begin at 0. UsageError for any other front end.
    """
    weights = [convolution.get_parameter("weight") for convolution in frontend.convs]
    channels, _, taps = weights[0].shape
    if len(frontend.kernels) != 2 or channels % 2 or channels < 2 * taps:
        reason = f"{len(frontend.kernels)} convolutions of {channels} channels cannot begin as a filterbank"
        remedy = "give two convolutions of an even number of channels, two a tap at least, or filterbank_start=false"
        raise UsageError("filterbank_start", reason, remedy)
    n_bands, n_spare, hop = channels // PHASES, channels // 2 - taps, frontend.strides[0]
    centres_hz = mel_spaced(MIN_HZ, MAX_SHARE * rate_hz / 2, n_bands)
    narrow_FN = gabor(centres_hz, taps + hop * (frontend.kernels[1] - 1), rate_hz, PHASES)
    narrow_FN *= torch.from_numpy(centres_hz / LEVEL_HZ).repeat_interleave(PHASES)[:, None]
    spare_hz = (np.arange(n_spare) + 0.5) * rate_hz / 2 / max(n_spare, 1)
    first_CK = torch.cat([torch.eye(taps, dtype=torch.float64), gabor(spare_hz, taps, rate_hz, 1)])
    second_FCK = torch.zeros(len(narrow_FN), len(first_CK), frontend.kernels[1], dtype=torch.float64)
    pieces_FKH = narrow_FN[:, : hop * frontend.kernels[1]].unflatten(1, (frontend.kernels[1], hop))
    second_FCK[:, :hop] = pieces_FKH.transpose(1, 2)
    second_FCK[:, hop:taps, -1] = narrow_FN[:, hop * frontend.kernels[1] :]
    weights[0].copy_(both_signs(first_CK, 0).unsqueeze(1))
    weights[1].zero_()
    weights[1][: len(second_FCK)] = both_signs(second_FCK, 1)


def gabor(centres_hz: np.ndarray, length: int, rate_hz: int, phases: int) -> Tensor:
    """Cosines at each centre under a Hann window, of norm 1, at `phases` equally spaced phases: float64 [phases F, N].

    >>> gabor(np.array([1000.0]), 40, 24_000, 2).norm(dim=1).round(decimals=9).tolist()
    [1.0, 1.0]
    """
    time_N = (torch.arange(length, dtype=torch.float64) - (length - 1) / 2) / rate_hz
    cycles_F1N = torch.from_numpy(centres_hz)[:, None, None] * time_N
    cycles_FPN = cycles_F1N + (torch.arange(phases, dtype=torch.float64) / phases)[:, None]
    window_N = torch.hann_window(length + 2, periodic=False, dtype=torch.float64)[1:-1]
    waves_FN = (2 * math.pi * cycles_FPN).cos().flatten(0, 1) * window_N
    return torch.nn.functional.normalize(waves_FN, dim=1)


def mel_spaced(min_hz: float, max_hz: float, n: int) -> np.ndarray:
    """Frequencies at equal distances on the mel scale.

    >>> mel_spaced(0.0, 4000.0, 3).round().tolist()
    [0.0, 1114.0, 4000.0]
    """
    lowest, highest = (2595 * math.log10(1 + hz / 700) for hz in (min_hz, max_hz))
    mels = np.linspace(lowest, highest, n)
    return 700 * (10 ** (mels / 2595) - 1)


def both_signs(x: Tensor, dim: int) -> Tensor:
    """Each slice, followed by its negative.

    >>> both_signs(torch.tensor([1, 2]), 0).tolist()
    [1, -1, 2, -2]
    """
    return torch.stack([x, -x], dim + 1).flatten(dim, dim + 1)


@torch.no_grad()
def init_classes(head: CodeHead, codebooks: Sequence[Tensor], teacher: str) -> None:
    """Initialise the class embeddings of a new head with the principal components of the codewords [C, D].

    Similar codes then begin close together, so what the model learns of one holds for its neighbours. Extra classes
    keep their random embeddings. UsageError if the teacher gives no codewords.
    """
    if not codebooks:
        reason, remedy = "does not say where its codes lie", "tokenize again, or set codebook_start=false"
        raise UsageError(f"teacher {teacher}", reason, remedy)
    for embeddings_CE, codewords_CD in zip(head.classes.split(head.sizes), codebooks, strict=True):
        centred_CD = (codewords_CD - codewords_CD.mean(0)).double()
        axes_DD = torch.linalg.eigh(centred_CD.T @ centred_CD).eigenvectors.flip(1)
        components = centred_CD @ axes_DD[:, : head.width]
        padded_CE = torch.zeros(len(components), head.width)
        padded_CE[:, : components.shape[1]] = (components / components.std()).float()
        embeddings_CE[head.extra_classes :] = padded_CE
