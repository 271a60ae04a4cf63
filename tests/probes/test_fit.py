"""Heads and their fit: the published recipe, each head by itself, selection on validation, known answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mert.errors import MertError
from probes import fit as sequence
from probes.clip_probe import ENSEMBLES, ClipConfig, ClipProbe, Labelled
from probes.features.scaling import Standardizer
from probes.features.stores import layer_number, layer_options
from probes.fit import EarlyStopping, FitData, Setting, Windows, batches, fit, mean_over_clips
from probes.heads import HeadShape, HeadStack, StackAdam, forward, init
from probes.results import is_single, layer_label
from probes.sweep import Grid, GridRow, Journal, groups, select, sweep


def blobs(n: int = 300, classes: int = 4, width: int = 12, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Noisy clouds around one centre a class: neither easy nor hopeless."""
    random = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, width, generator=torch.Generator().manual_seed(99))
    labels = torch.randint(0, classes, (n,), generator=random)
    return centres[labels] + 0.8 * torch.randn(n, width, generator=random), labels


def training(**changes: object) -> FitData:
    (x, y), (valid_x, valid_y) = blobs(), blobs(200, seed=1)
    truth = valid_y.numpy()
    values: dict[str, object] = {
        "train": Windows(x, torch.arange(len(x))), "targets": y, "valid": Windows(valid_x, torch.arange(200)),
        "score": lambda logits: float((logits.argmax(1) == truth).mean()), "loss": "classes", "outputs": 4,
        "hidden": 32, "max_epochs": 15,
    }  # fmt: skip
    return FitData(**(values | changes))  # type: ignore[arg-type]


def test_a_head_is_the_module_it_claims_to_be() -> None:
    parameters = init(HeadShape(12, 4, hidden=32), torch.Generator().manual_seed(3))
    module = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 4)).eval()
    module.load_state_dict({"0.weight": parameters["w1"], "0.bias": parameters["b1"],
                            "3.weight": parameters["w2"], "3.bias": parameters["b2"]})  # fmt: skip
    x = torch.randn(7, 12)
    with torch.no_grad():
        got = forward({name: value[None] for name, value in parameters.items()}, x[None])[0]
        assert torch.allclose(got, module(x), atol=1e-6)


def test_a_weighted_sum_leaves_out_an_encoders_input_and_nothing_else() -> None:
    for layers, summed in (
        (("embed", "layer01", "layer02"), ("layer01", "layer02")),
        (("low", "mid", "high"), ("low", "mid", "high")),
        (("layer04", "layer05"), ("layer04", "layer05")),
    ):
        assert layer_options(layers) == (*layers, "all")
        number = layer_number(layers, "all")
        assert isinstance(number, slice) and layers[number] == summed
    for alone in (("log-mel",), ("embed", "layer01")):
        assert layer_options(alone) == alone


def test_layers_of_any_name_are_drawn() -> None:
    assert [layer_label(name) for name in ("embed", "layer07", "layer.0", "low", "all")] == [
        "embed", "7", "layer.0", "low", "all"
    ]  # fmt: skip
    assert [is_single(name) for name in ("embed", "layer07", "layer.0", "low", "all")] == [True] * 4 + [False]


def test_weighted_layers_are_a_softmax_sum() -> None:
    stack = HeadStack(HeadShape(5, 2, hidden=0, weighted=3), seeds=[4])
    x = torch.randn(1, 6, 3, 5)
    weights = stack.parameters["layers"][0].softmax(0)
    mixed = sum(weights[i] * x[:, :, i] for i in range(3))
    wanted = mixed[0] @ stack.parameters["w2"][0].T + stack.parameters["b2"][0]
    assert torch.allclose(stack.logits(x)[0], wanted, atol=1e-6)
    assert not torch.allclose(stack.parameters["layers"], torch.zeros(1, 3))  # MARBLE starts them at random


@pytest.mark.parametrize("n_heads", [1, 3])
def test_adam_is_torchs(n_heads: int) -> None:
    rates = [1e-3, 1e-2, 5e-4][:n_heads]
    stacked = {"w": torch.randn(n_heads, 5, 3), "b": torch.randn(n_heads, 3)}
    alone = [{name: nn.Parameter(value[g].clone()) for name, value in stacked.items()} for g in range(n_heads)]
    ours = StackAdam(stacked, torch.tensor(rates))
    theirs = [torch.optim.Adam(head.values(), lr) for head, lr in zip(alone, rates, strict=True)]
    for step in range(20):
        x = torch.randn(4, 5, generator=torch.Generator().manual_seed(step))
        ours.step(torch.stack([((x @ stacked["w"][g] + stacked["b"][g]) ** 2).mean() for g in range(n_heads)]))
        for head, optimizer in zip(alone, theirs, strict=True):
            optimizer.zero_grad()
            ((x @ head["w"] + head["b"]) ** 2).mean().backward()
            optimizer.step()
    for g, head in enumerate(alone):
        assert torch.allclose(stacked["w"][g], head["w"], atol=1e-6)


def test_a_head_in_a_stack_is_the_head_alone() -> None:
    settings = [Setting("a", lr, seed) for lr in (1e-3, 1e-2) for seed in (0, 1)]
    together = fit(training(), settings)
    for setting, of_stack in zip(settings, together, strict=True):
        (alone,) = fit(training(), [setting])
        assert alone.epoch == of_stack.epoch and alone.curve == pytest.approx(of_stack.curve, abs=0.011)
        assert torch.allclose(alone.parameters["w2"], of_stack.parameters["w2"], atol=1e-3)


def test_the_same_seed_is_the_same_head_bit_by_bit() -> None:
    one, two = (fit(training(), [Setting("a", 1e-3, 5)])[0] for _ in range(2))
    assert all(torch.equal(one.parameters[name], two.parameters[name]) for name in one.parameters)
    other = fit(training(), [Setting("a", 1e-3, 6)])[0]
    assert not torch.equal(one.parameters["w1"], other.parameters["w1"])


def test_the_best_epoch_is_kept_not_the_last() -> None:
    scores = iter([0.1, 0.9, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3])
    task = training(score=lambda logits: next(scores), max_epochs=8, patience=(2, 20))
    (kept,) = fit(task, [Setting("a", 1e-2, 0)])
    scores = iter([0.1, 0.9])
    (two,) = fit(training(score=lambda logits: next(scores), max_epochs=2), [Setting("a", 1e-2, 0)])
    assert kept.epoch == 2 and kept.score == 0.9
    assert torch.equal(kept.parameters["w1"], two.parameters["w1"])


def test_rates_fall_and_heads_stop_each_by_itself() -> None:
    progress, lr = EarlyStopping(2, patience=(2, 5)), torch.tensor([1.0, 1.0])
    curves = [[1, 2, 3, 4, 5, 6, 7, 8], [9, 0, 0, 0, 0, 0, 0, 0]]
    rates = []
    for epoch, scores in enumerate(zip(*curves, strict=True), 1):
        better, lr = progress.update(epoch, scores, lr)
        rates.append(lr.tolist())
        assert better[0]
    assert rates[-1] == [1.0, 0.5] and rates[2] == [1.0, 1.0] and rates[3] == [1.0, 0.5]
    assert progress.epochs == [8, 1] and len(progress.curves[1]) == 6 and not progress.all_done


def test_an_epoch_hears_every_window_once_and_clips_whole() -> None:
    owners = torch.tensor([0, 0, 1, 2, 2, 2, 3])
    (rows,) = batches(Windows(torch.zeros(7, 1), owners), [np.random.default_rng(0)])
    assert sorted(rows[0].tolist()) == list(range(7))
    order = owners[rows[0]].tolist()
    assert [clip for i, clip in enumerate(order) if i == 0 or order[i - 1] != clip] != sorted(set(order))
    assert len([i for i in range(1, 7) if order[i] != order[i - 1]]) == 3


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"targets": torch.full((300, 2), 3.0), "loss": "values", "outputs": 2}, "constant"),
        ({"train": Windows(torch.full((300, 12), torch.nan), torch.arange(300))}, "NaN"),
        ({"valid": Windows(torch.zeros(0, 12), torch.zeros(0, dtype=torch.long))}, "no windows"),
    ],
)
def test_what_cannot_be_learnt_is_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(MertError, match=said):
        fit(training(**changes), [Setting("a", 1e-3, 0)])


class Table:
    """Features in memory: layer "noise" says nothing, "answer" nearly everything."""

    layers = ("embed", "noise", "answer")

    def __init__(self, labels: np.ndarray, windows: int = 1, noise: float = 0.3) -> None:
        random, n = np.random.default_rng(0), len(labels)
        self.windows_each = windows
        shape = (n * windows, 3, 8)
        self.values = random.standard_normal(shape).astype(np.float32)
        self.values[:, 2] = np.repeat(np.eye(8)[labels], windows, axis=0) + noise * self.values[:, 2]

    def rows(self, ids: object) -> tuple[np.ndarray, np.ndarray]:
        numbers = [int(name) for name in ids]  # type: ignore[attr-defined]
        rows = [np.arange(n * self.windows_each, (n + 1) * self.windows_each) for n in numbers]
        return np.concatenate(rows), np.repeat(np.arange(len(numbers)), self.windows_each)

    def windows(self, rows: np.ndarray, layer: int | slice) -> np.ndarray:
        return self.values[rows][:, layer]


class CutError(Exception):
    """What ends a run at a bad moment."""


def probe_of(labels: np.ndarray, test_labels: np.ndarray | None = None, windows: int = 1, noise: float = 0.3,
             per_window: bool = False, store: type[Table] = Table) -> ClipProbe:  # fmt: skip
    names = tuple(map(str, range(len(labels))))
    third = len(labels) // 3
    told = labels if test_labels is None else test_labels
    config = ClipConfig("classification", tuple("abcdefgh"), "accuracy", 64, 40, (3, 10), per_window=per_window)
    splits = [Labelled(names[i * third : (i + 1) * third], told[i * third : (i + 1) * third]) for i in range(3)]
    return ClipProbe(store(labels, windows, noise), *splits, config=config)


def accuracy(probe: ClipProbe, swept: object) -> float:
    outputs = probe.outputs(swept.heads[0])  # type: ignore[attr-defined]
    return float((outputs.argmax(1) == probe.labelled["test"].targets).mean())


def test_oracle_features_are_found_and_shuffled_labels_stay_at_chance(tmp_path: Path) -> None:
    labels = np.random.default_rng(1).integers(0, 8, 900)
    grid = Grid(("embed", "noise", "answer"), (1e-3, 1e-2), (0,))
    probe = probe_of(labels, noise=0.05)
    swept = sweep(grid, probe.fit, Journal(None, {}))
    assert swept.layer == "answer" and accuracy(probe, swept) >= 0.99
    shuffled = probe_of(labels, np.random.default_rng(2).permutation(labels), noise=0.05)
    at_chance = accuracy(shuffled, sweep(grid, shuffled.fit, Journal(None, {})))
    assert abs(at_chance - 1 / 8) < 2.6 * (1 / 8 * 7 / 8 / 300) ** 0.5  # 99 % of draws


class Faint(Table):
    """Features whose useful half is a thousandth of their noise: as they are, it is lost."""

    def windows(self, rows: np.ndarray, layer: int | slice) -> np.ndarray:
        noise = 50 + np.random.default_rng(0).standard_normal((len(rows), 8))
        return np.concatenate([1e-3 * super().windows(rows, layer), noise], axis=-1).astype(np.float32)


def test_scaling_is_chosen_on_validation_with_the_first_seed() -> None:
    probe, fits = probe_of(np.random.default_rng(6).integers(0, 8, 300), noise=0.05, store=Faint), list[Setting]()
    grid = Grid(("embed", "answer"), (1e-2,), (0, 1, 2), scalings=("raw", "standardized"))

    def counted(settings: list[Setting]) -> list[object]:
        fits.extend(settings)
        return list(probe.fit(settings))

    swept = sweep(grid, counted, Journal(None, {}), together=6)  # type: ignore[arg-type]
    assert len(fits) == len(grid) == len(swept.rows) == 2 * (2 + 2)
    assert (swept.layer, swept.scaling) == ("answer", "standardized") and accuracy(probe, swept) > 0.9
    assert {at.scaling for at in fits if at.layer == "answer" and at.seed} == {"standardized"}
    assert {at.seed for at in fits if at.scaling == "raw" and at.layer == "answer"} == {0}
    alone = sweep(Grid(("answer",), (1e-2,), (0, 1, 2), ("standardized",)), probe.fit, Journal(None, {}))
    assert set(alone.rows) < set(swept.rows)  # a head is the same, whatever else is fitted


def test_windows_of_a_clip_are_averaged_as_logits() -> None:
    labels = np.random.default_rng(3).integers(0, 8, 300)
    probe = probe_of(labels, windows=4, noise=0.6)
    (fitted,) = probe.fit([Setting("answer", 1e-2, 0)])
    outputs, ensemble = probe.outputs(fitted), probe.ensemble(fitted)
    each = fitted.logits(probe._windows["test"])
    assert ensemble == "mean-logit" and np.allclose(outputs, each.reshape(-1, 4, 8).mean(1), atol=1e-5)
    alone = probe_of(labels, windows=4, noise=0.6, per_window=True)
    (fitted,) = alone.fit([Setting("answer", 1e-2, 0)])
    assert len(alone.outputs(fitted)) == 400 and alone.labelled["test"].ids[1] == "200 #1"


def test_ensembles_agree_with_their_names() -> None:
    logits, owners = np.array([[3.0, 0.0], [0.0, 1.0], [0.0, 1.0]]), np.array([0, 0, 0])
    winners = {name: int(function(logits, owners).argmax()) for name, function in ENSEMBLES.items()}
    assert winners == {"mean-logit": 0, "vote": 1, "max-logit": 0, "mean-probability": 1}
    assert np.array_equal(mean_over_clips(logits, np.array([0, 0, 1])), [[1.5, 0.5], [0.0, 1.0]])


def test_a_sweep_cut_off_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    labels = np.random.default_rng(4).integers(0, 8, 300)
    grid = Grid(("embed", "answer"), (1e-3, 1e-2), (0, 1))
    probe, fits = probe_of(labels), list[Setting]()

    def counted(settings: list[Setting]) -> list[object]:
        fits.extend(settings)
        if len(fits) == 6:
            raise CutError
        return list(probe.fit(settings))  # type: ignore[return-value]

    wanted = sweep(grid, probe.fit, Journal(None, {}))
    path = tmp_path / "journal.jsonl"
    with pytest.raises(CutError):
        sweep(grid, counted, Journal(path, {"key": 1}))  # type: ignore[arg-type]
    path.write_text(path.read_text() + '{"key": "half a li')
    fits.clear()
    got = sweep(grid, counted, Journal(path, {"key": 1}))  # type: ignore[arg-type]
    assert len(Journal(path, {"key": 1}).fits) == len(grid)  # the row behind the torn line, too
    assert len(fits) == 3 and got.rows == wanted.rows and (got.layer, got.lr) == (wanted.layer, wanted.lr)
    for seed, head in got.heads.items():
        assert torch.equal(head.parameters["w1"], wanted.heads[seed].parameters["w1"])  # type: ignore[attr-defined]
    fits.clear()
    with pytest.raises(CutError):  # other features, labels or rules: nothing is taken over
        sweep(grid, counted, Journal(path, {"key": 2}))  # type: ignore[arg-type]


def test_a_fit_that_does_not_converge_leaves_the_choice_of_scaling_to_the_others() -> None:
    grid, journal = Grid(("a",), (1.0, 0.1), (0, 1), ("standardized", "raw")), Journal(None, {})
    for scaling, values in {"standardized": (float("nan"), 0.6), "raw": (0.7, float("nan"))}.items():
        for at, valid in zip(grid.points("a", scaling, (0,)), values, strict=True):
            journal.add(GridRow(at.layer, at.lr, at.seed, valid, 1, scaling=scaling))
    assert [group[0].scaling for group in groups(grid, journal, 2)] == ["raw"]


def test_selection_takes_the_mean_over_seeds_and_never_a_nan() -> None:
    rows = [GridRow(*row) for row in (
        ("a", 1.0, 0, 0.99, 1), ("a", 1.0, 1, 0.1, 1), ("b", 1.0, 0, 0.6, 1), ("b", 1.0, 1, 0.6, 1),
        ("c", 1.0, 0, float("nan"), 0), ("c", 1.0, 1, 1.0, 1),
    )]  # fmt: skip
    assert select(rows) == ("b", 1.0, "standardized")
    left = GridRow("d", 1.0, 0, 1.0, 1, scaling="raw")  # of its scaling only the first seed was fitted
    assert select([*rows, left]) == ("b", 1.0, "standardized")
    with pytest.raises(MertError, match="no fit has a finite"):
        select(rows[4:5])


def test_scaling_needs_no_more_memory_than_the_features() -> None:
    """The largest layer option is scaled in place: what `memory_bytes` states is what there is."""
    x = torch.randn(9_000, 3, 8).half() * 3 + 1
    wanted = (x.double() - x.double().mean(0)) / x.double().std(0, correction=0)
    scaled = Standardizer.of_rows(x)(x)
    assert scaled is x and x.dtype == torch.float16
    assert (x.double() - wanted).abs().max() < 4e-3


def test_rates_fall_as_torchs_own_schedule_lets_them() -> None:
    scores = [0.1, 0.5, 0.4, 0.4, 0.4, 0.6, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]
    optimizer = torch.optim.Adam([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, "max", 0.5, patience=2, threshold=0.0)
    progress, lr = EarlyStopping(1, (2, 99)), torch.tensor([1.0])
    framewise: list[float] = []
    given = iter(scores)
    model = nn.Linear(1, 1)

    def epoch(of_frames: torch.optim.Optimizer) -> None:
        framewise.append(of_frames.param_groups[0]["lr"])

    sequence.train(model, 1.0, sequence.Policy(len(scores), (2, 99)), epoch, lambda: next(given))
    used = []
    for epoch, score in enumerate(scores, 1):
        used.append(float(lr[0]))
        assert framewise[epoch - 1] == used[-1] == optimizer.param_groups[0]["lr"]
        _, lr = progress.update(epoch, [score], lr)
        schedule.step(score)
    assert min(used) == 0.25
