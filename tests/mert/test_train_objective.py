"""The parts of the objective: masks, mixing, heads and the learning rate, against the facts of the specification."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from harness.sounds import tiny_config

from mert.errors import UsageError
from mert.models.mert import Mert
from mert.train.initialisation import PretrainerConfig
from mert.train.masking import span_mask
from mert.train.mixing import Mixing
from mert.train.objective import ClipHead, CodeHead, FrameHead, Group, Pretrainer, Weights, tf32
from mert.train.recipe import NAMED, read_recipe, v1_95m, v1_330m


def masks(n_groups: int, n_clips: int, n_frames: int) -> np.ndarray:
    return np.stack([span_mask(np.random.default_rng([n_frames, i]), n_clips, n_frames) for i in range(n_groups)])


def test_mask_shares_are_those_of_the_published_recipe() -> None:
    alone = masks(2000, 1, 374)
    assert alone.mean() == pytest.approx(0.583, abs=0.003)
    assert alone.mean(axis=2).std() == pytest.approx(0.024, abs=0.003)
    assert masks(200, 16, 374).mean() == pytest.approx(0.539, abs=0.003)
    assert masks(200, 7, 383).mean() == pytest.approx(0.552, abs=0.004)


def test_the_last_frame_is_never_masked_and_the_first_ones_less() -> None:
    share_T = masks(3000, 1, 374)[:, 0].mean(axis=0)
    assert share_T[-1] == 0
    np.testing.assert_allclose(share_T[:4], [0.16, 0.30, 0.41, 0.51], atol=0.03)
    assert share_T[10:-10].mean() == pytest.approx(0.59, abs=0.01)


def test_all_clips_of_a_group_have_equally_many_masked_frames() -> None:
    for mask_BT in masks(50, 16, 374):
        assert len(set(mask_BT.sum(axis=1).tolist())) == 1


@pytest.mark.parametrize("n_frames", [10, 20, 30])
def test_short_clips_are_masked_too_and_never_wholly(n_frames: int) -> None:
    for mask_BT in masks(100, 3, n_frames):
        assert 0 < mask_BT[0].sum() < n_frames


def test_a_clip_that_would_be_masked_wholly_is_an_error() -> None:
    with pytest.raises(ValueError, match="would be masked"):
        for i in range(100):
            span_mask(np.random.default_rng(i), 1, 5, length=5)


def clips(n_clips: int = 4, n_samples: int = 4000) -> torch.Tensor:
    """Clips whose samples tell where they are from: clip b holds values between b + 1 and b + 1.5."""
    return torch.arange(1.0, n_clips + 1)[:, None] + torch.linspace(0, 0.5, n_samples)


MIXING = Mixing(apply_prob=1.0, shortest=100, longest=200)


def test_mixing_adds_stretches_of_other_clips_and_leaves_the_batch_alone() -> None:
    wave_BN = clips()
    before = wave_BN.clone()
    mixed_BN = MIXING(wave_BN, np.random.default_rng(0))
    assert torch.equal(wave_BN, before)
    added_BN = mixed_BN - wave_BN
    touched_B = (added_BN != 0).sum(dim=1)
    assert ((touched_B >= 100) & (touched_B <= 600)).all()


def test_a_clip_is_never_disturbed_by_itself() -> None:
    # Powers of sixteen: the digits of a sum tell which clips went into it, up to three times each.
    wave_BN = (16.0 ** torch.arange(4))[:, None].expand(4, 4000).contiguous()
    for seed in range(20):
        added_BN = (MIXING(wave_BN, np.random.default_rng(seed)) - wave_BN).long()
        digits_4BN = torch.stack([added_BN // 16**b % 16 for b in range(4)])
        for b in range(4):
            assert (digits_4BN[b, b] == 0).all()
            assert (digits_4BN[:, b].sum(dim=0) > 0).any()


@pytest.mark.parametrize(("probability", "share"), [(0.0, 0.0), (0.25, 0.25), (0.9, 0.9), (1.0, 1.0)])
def test_apply_prob_is_the_share_of_disturbed_clips(probability: float, share: float) -> None:
    mixing = Mixing(apply_prob=probability, shortest=10, longest=20)
    random = np.random.default_rng(1)
    wave_BN = clips(8, 400)
    disturbed = [(mixing(wave_BN, random) != wave_BN).any(dim=1).float().mean() for _ in range(200)]
    assert float(torch.stack(disturbed).mean()) == pytest.approx(share, abs=0.03)


def test_a_clip_alone_or_too_short_for_a_piece_is_left_as_it_is() -> None:
    random = np.random.default_rng(0)
    for wave_BN in (clips(1), clips(4, 150)):
        assert torch.equal(MIXING(wave_BN, random), wave_BN)


@torch.no_grad()
def test_cross_entropy_equals_one_positive_against_all_negatives() -> None:
    torch.manual_seed(0)
    head = CodeHead(24, [50, 70], width=16)
    states_SD, codes_SK = (
        torch.randn(40, 24),
        torch.stack([torch.randint(0, 50, (40,)), torch.randint(0, 70, (40,))], 1),
    )
    losses_K, right_K = head(states_SD, codes_SK)
    projected = head.projection(states_SD).view(40, 2, 16)
    for k, classes_CE in enumerate(head.classes.split(head.sizes)):
        positive_SE = classes_CE[codes_SK[:, k]]
        candidates = torch.cat([positive_SE[None], classes_CE[:, None].expand(-1, 40, -1)])  # [1 + C, S, E]
        cosine = torch.nn.functional.cosine_similarity(projected[:, k], candidates, dim=-1) / 0.1
        cosine[1:][(candidates[1:] == positive_SE).all(dim=-1)] = -math.inf
        wanted = torch.nn.functional.cross_entropy(cosine.T, torch.zeros(40, dtype=torch.long), reduction="sum")
        assert float(losses_K[k]) == pytest.approx(float(wanted), rel=1e-6)
        guesses = head.logits(states_SD)[k].argmax(dim=1)
        assert int(right_K[k]) == int((guesses == codes_SK[:, k]).sum())


@torch.no_grad()
def test_equal_logits_cost_ln_1028_with_the_dictionary_of_fairseq() -> None:
    head = CodeHead(8, [1024] * 8, width=64, extra_classes=4)
    assert tuple(head.classes.shape) == (8224, 64)
    head.classes.fill_(1.0)
    losses_K, _ = head(torch.randn(10, 8), torch.randint(0, 1024, (10, 8)))
    assert torch.allclose(losses_K / 10, torch.full((8,), math.log(1028)), atol=1e-5)
    assert math.log(1028) == pytest.approx(6.935, abs=1e-3)


@torch.no_grad()
def test_code_c_lives_in_row_c_plus_four() -> None:
    head = CodeHead(8, [16], width=8, extra_classes=4)
    state = torch.randn(1, 8)
    head.classes[:] = torch.randn(20, 8)
    head.classes[7] = head.projection(state)[0]
    _, right_K = head(state, torch.tensor([[3]]))
    assert int(right_K[0]) == 1


def test_heads_compute_in_float32_under_autocast() -> None:
    head, frame_head, clip_head = CodeHead(8, [16], width=8), FrameHead(8, 5), ClipHead(8, 5)
    with torch.autocast("cpu", torch.bfloat16):
        assert clip_head(torch.randn(3, 7, 8, dtype=torch.bfloat16), torch.randn(3, 5)).dtype == torch.float32
        assert head.logits(torch.randn(3, 8))[0].dtype == torch.float32
        assert frame_head(torch.randn(3, 8), torch.randn(3, 5)).dtype == torch.float32


def small_group(n_clips: int = 3, n_samples: int = 8000) -> Group:
    torch.manual_seed(3)
    n_frames = (n_samples - 400) // 320 + 1
    mask_BT = torch.from_numpy(span_mask(np.random.default_rng(0), n_clips, n_frames))
    codes = {"a": torch.randint(0, 10, (n_clips, 2, n_frames + 1))}
    frames, clips = {"b": torch.rand(n_clips, n_frames + 2, 6)}, {"c": torch.randn(n_clips, 4)}
    return Group(0.1 * torch.randn(n_clips, n_samples), mask_BT, codes, frames, clips)


def small_objective(**weights: Any) -> Pretrainer:
    """Without dropout, with a head of each kind for `small_group`."""
    torch.manual_seed(0)
    model = Mert(tiny_config(dropout=0.0, attention_dropout=0.0, input_dropout=0.0))
    return Pretrainer(model, {"a": (10, 10)}, {"b": 6}, 8, Weights(**weights), n_clip_values={"c": 4})


def test_the_loss_is_the_weighted_sum_over_masked_frames() -> None:
    objective = small_objective(codes=1.0, frames=2.0, clips=0.5, penalty=3.0, feature_grad=1.0).eval()
    group = small_group()
    with torch.no_grad():
        loss, parts = objective(group)
        penalty = objective.model.frontend(group.wave_BN).square().mean() * group.n_masked
        wanted = parts["a/loss"].sum() + 2.0 * parts["b/loss"] + 0.5 * parts["c/loss"] + 3.0 * penalty
        assert float(loss) == pytest.approx(float(wanted), rel=1e-5)


def test_unmasked_frames_count_with_their_weight_and_are_not_logged() -> None:
    group = small_group()
    inverse = dataclasses.replace(group, mask_BT=~group.mask_BT)
    objective = small_objective(frames=2.0, clips=0.0, penalty=0.0).eval()
    with torch.no_grad():
        states_BTD, _ = objective.states(group)
        objective.states = lambda *_: (states_BTD, torch.zeros(()))  # the same input for both losses
        masked, parts = objective(group)
        unmasked, _ = objective(inverse)
        objective.weights = dataclasses.replace(objective.weights, unmasked=0.3)
        both, same_parts = objective(group)
    assert float(both) == pytest.approx(float(masked + 0.3 * unmasked), rel=1e-6)
    assert all(torch.equal(part, same_parts[name]) for name, part in parts.items())


def test_frames_of_a_large_factor_are_predicted_at_a_larger_scale() -> None:
    objective, group = small_objective(frames=2.0, teachers={"b": 9.0}).eval(), small_group()
    with torch.no_grad():
        loss, parts = objective(group)
        states_BTD, penalty = objective.states(group)
        predicted_SF = objective.head_of("b").projection(states_BTD[group.mask_BT])
        error = (predicted_SF - 3.0 * group.masked_frames("b")).square().mean(1).sum()
        others = parts["a/loss"].sum() + parts["c/loss"] + 10.0 * penalty * group.n_masked
    assert float(9.0 * parts["b/loss"]) == pytest.approx(float(error), rel=1e-5)
    assert float(loss) == pytest.approx(float(others + 2.0 * error), rel=1e-5)


@torch.no_grad()
def test_a_clip_counts_once_for_each_of_its_masked_frames_and_is_described_by_all_of_them() -> None:
    objective, group = small_objective().eval(), small_group()
    group.mask_BT[0, ::2] = True  # clips with other shares of masked frames
    states_BTD, _ = objective.states(group)
    error_B = (objective.head_of("c").projection(states_BTD.mean(1)) - group.clips["c"]).square().mean(1)
    assert len(set(group.mask_BT.sum(1).tolist())) > 1
    wanted = float(error_B @ group.mask_BT.sum(1).float())
    assert float(objective(group)[1]["c/loss"]) == pytest.approx(wanted, rel=1e-6)


def test_clips_a_few_at_a_time_give_the_losses_and_gradients_of_the_whole_group() -> None:
    sums, gradients = [], []
    for n_clips in (4, 3, 1):
        objective = small_objective()
        losses = [objective(part) for part in small_group(4).split(n_clips)]
        torch.stack([loss for loss, _ in losses]).sum().backward()
        sums.append([float(sum(parts[name].sum() for _, parts in losses)) for name in losses[0][1]])
        gradients.append(torch.cat([p.grad.flatten() for p in objective.parameters() if p.grad is not None]))
    for other, gradient in zip(sums[1:], gradients[1:], strict=True):
        assert other == pytest.approx(sums[0], rel=1e-5)
        torch.testing.assert_close(gradient, gradients[0], rtol=1e-4, atol=1e-5)


def test_what_a_clip_is_like_is_learned_from_unmasked_frames_too() -> None:
    objective, group = small_objective(), small_group()
    states: list[torch.Tensor] = []
    objective.model.encoder.register_forward_hook(lambda module, inputs, output: states.extend(output))
    parts = objective(group)[1]
    assert set(parts) == {"penalty", "a/loss", "a/right", "b/loss", "c/loss"}
    head = objective.head_of("c")
    (gradient_BTD,) = torch.autograd.grad(head(states[-1], group.clips["c"]).sum(), states[-1])
    assert (gradient_BTD.abs().sum(2) > 0).all()


def test_masked_frames_are_not_heard() -> None:
    model = Mert(tiny_config())
    objective = Pretrainer(model, {"a": (10, 10)}, {}, class_width=8).eval()
    group = small_group(1, 40_000)
    everything = Group(group.wave_BN, torch.ones_like(group.mask_BT), group.codes, {})
    louder = Group(torch.randn_like(group.wave_BN), everything.mask_BT, group.codes, {})
    with torch.no_grad():
        assert torch.equal(objective.states(everything)[0], objective.states(louder)[0])


def test_the_gradient_into_the_convolutions_is_scaled() -> None:
    gradients = []
    for share in (1.0, 0.1):
        torch.manual_seed(0)
        objective = Pretrainer(Mert(tiny_config()), {"a": (10, 10)}, {}, 8, Weights(feature_grad=share)).eval()
        objective(small_group())[0].backward()
        first = objective.model.frontend.convs[1].weight.grad
        last = objective.model.projection.linear.weight.grad
        assert first is not None
        assert last is not None
        gradients.append((first.clone(), last.clone()))
    torch.testing.assert_close(gradients[1][0], 0.1 * gradients[0][0], rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(gradients[1][1], gradients[0][1])


def test_products_are_tf32_on_gpus_for_a_while() -> None:
    kinds = torch.backends.cuda.matmul, torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before = [kind.fp32_precision for kind in kinds]
    with tf32(torch.device("cuda")):
        assert [kind.fp32_precision for kind in kinds] == ["tf32", "tf32"]
        with tf32(torch.device("cpu")):
            pass
    assert [kind.fp32_precision for kind in kinds] == before


def test_learning_rates_of_the_published_schedule() -> None:
    recipe = v1_95m()
    assert recipe.lr_at(1) == recipe.lr / 32_000
    assert recipe.lr_at(32_000) == recipe.lr == 5e-4
    assert recipe.lr_at(400_000) == 0
    assert recipe.lr_at(65_000) / recipe.lr == pytest.approx(0.910, abs=5e-4)


def test_published_recipes_carry_the_papers_numbers() -> None:
    base, large = v1_95m(), v1_330m()
    assert (base.clip_samples, large.clip_samples) == (120_000, 122_880)
    assert (base.group_clips, large.group_clips) == (16, 7)
    assert base.batch_clips * base.clip_s / 3600 == pytest.approx(1.42, abs=0.01)
    assert large.batch_clips * large.clip_s / 3600 == pytest.approx(5.10, abs=0.01)
    assert (large.mixing.shortest, large.mixing.longest, base.mixing.longest) == (12_000, 36_000, 24_000)


@pytest.mark.parametrize(("size", "total"), [("v1_95m", 95_550_160), ("v1_330m", 317_875_664)])
def test_trainable_parameters_with_the_heads_of_fairseq(size: str, total: int) -> None:
    recipe = NAMED[size]()
    with torch.device("meta"):
        objective = Pretrainer(Mert(recipe.model), {"encodec": (1024,) * 8}, {"cqt": 336}, recipe.class_width, None, 4)
    assert sum(p.numel() for p in objective.parameters()) == total


def test_recipes_are_changed_by_typed_keys_and_unknown_ones_are_errors() -> None:
    recipe = read_recipe(
        "nano", ["steps=50", "warmup_steps=5", "lr=1e-3", "mixing.apply_prob=0", "teachers=cqt,random_projection"]
    )
    assert (recipe.steps, recipe.lr, recipe.mixing.apply_prob) == (50, 1e-3, 0.0)
    assert recipe.teachers == ("cqt", "random_projection")
    weighted = read_recipe("nano", ["weights.teachers.basic_pitch=1e2"])
    assert weighted.weights.teachers == {"basic_pitch": 100.0}
    with pytest.raises(UsageError, match=r"weights.teachers=\['basic_pitch'\]: names no teacher of this run"):
        PretrainerConfig.of(weighted, {})
    for wrong in (
        "weights.teachers.cqt=much",
        "weights.teachers=2",
        "stepz=5",
        "mixing.prob=1",
        "steps=many",
        "steps",
        "compile=3",
        "batch_clips=3",
        "warmup_steps=9999",
    ):
        with pytest.raises(UsageError):
            read_recipe("nano", ["group_clips=2", "batch_clips=4", wrong])
    with pytest.raises(UsageError, match="no recipe of this name"):
        read_recipe("nanoo")
