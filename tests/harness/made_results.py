"""Hand-made results, as benchmark and training runs would leave them: heads of a stated skill, no model needed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from safetensors.numpy import save_file

from mert.files import write_json
from mir_benchmarks.statistics import summarise
from mir_benchmarks.tasks.registry import TASKS
from probes.results import Outputs, Result, library_versions
from probes.sweep import LRS

GENRES = ("blues", "classical", "country", "disco", "hiphop", "jazz", "metal", "pop", "reggae", "rock")
TONICS = ("C", "Db", "D", "Eb", "E", "F", "Gb", "G", "Ab", "A", "Bb", "B")
CLASSES = {
    "gtzan_genre": GENRES,
    "giantsteps_key": tuple(f"{tonic} {mode}" for mode in ("major", "minor") for tonic in TONICS),
    "nsynth_pitch": tuple(str(pitch) for pitch in range(128)),
    "nsynth_instrument": ("bass", "brass", "flute", "guitar", "keyboard", "mallet", "organ", "reed", "string",
                          "synth_lead", "vocal"),
    "vocalset_technique": ("belt", "breathy", "inhaled", "lip_trill", "spoken", "straight", "trill", "trillo",
                           "vibrato", "vocal_fry"),
    "emomusic": ("arousal", "valence"),
    "gtzan_beats": ("f_dbn", "f_peak"),
    "musdb18": TASKS["musdb18"].metrics,
}  # fmt: skip
LAYERS = ("embed", *(f"layer{i:02}" for i in range(1, 13)), "all")
N_SEEDS = 3


def outputs_of(task: str, skill: float, n: int, classes: tuple[str, ...] | None = None) -> Outputs:
    """Outputs of a head: the truth times `skill`, and noise; the items are the same for every skill."""
    spec = TASKS[task]
    items, noise = np.random.default_rng(len(task)), np.random.default_rng([len(task), int(100 * skill)])
    columns = classes or CLASSES.get(task) or tuple(f"tag {i}" for i in range(12))
    shape = (N_SEEDS, n, len(columns))
    ids = np.array([f"{task}/{i:05}" for i in range(n)])
    noise_SnC = noise.standard_normal((1, *shape[1:])) + 0.5 * noise.standard_normal(shape)
    if spec.kind == "multilabel":
        targets = (items.random(shape[1:]) < 0.15).astype(np.uint8)
        return Outputs(ids, targets, (noise_SnC + 2 * skill * targets).astype(np.float32), columns)
    if spec.kind == "regression":
        targets = items.standard_normal(shape[1:])
        return Outputs(ids, targets, (skill * targets + 0.5 * noise_SnC).astype(np.float32), columns)
    if spec.kind in ("beats", "separation"):
        values = skill + 0.15 * noise_SnC if spec.kind == "beats" else 5 * skill + noise_SnC
        return Outputs(ids, np.zeros(0), np.clip(values, 0, 1 if spec.kind == "beats" else 9), columns)
    targets = items.integers(0, len(columns), n)
    near = 0.6 * np.eye(len(columns))[(targets + 7) % len(columns)]  # what it is most easily taken for
    return Outputs(ids, targets, (noise_SnC + 4 * skill * (np.eye(len(columns))[targets] + near)), columns)


def result_of(task: str, outputs: Outputs, model: str = "MERT-v1-95M", data: str = "real", **changes: object) -> Result:
    """The result that belongs to outputs; validation rises to a layer in the middle and falls again."""
    spec = TASKS[task]
    peak = 1 + len(task) % 11
    metrics, score = summarise(outputs, spec.metrics, spec.protocol())
    random = np.random.default_rng(len(task))
    grid = [
        {"layer": layer, "scaling": "raw", "lr": lr, "seed": seed, "epoch": 12,
         "valid": score["mean"] / 100 - 0.004 * (min(place, 12) - peak) ** 2 - 0.03 * (lr != 1e-3)
         + 0.006 * random.standard_normal()}
        for place, layer in enumerate(LAYERS) for lr in LRS for seed in range(N_SEEDS)
    ]  # fmt: skip
    first = (row for row in grid if row["seed"] == 0)  # the other scaling is no better, and left after the first seed
    grid += [row | {"scaling": "standardized", "valid": row["valid"] - 0.02} for row in first]
    fields: dict = dict(
        model={"name": model, "revision": "main", "sha256": "0123456789abcdef" * 4},
        task={"name": task, "version": spec.version, "data": data, "checksum": "c0ffee"},
        protocol=spec.protocol(), scaling="raw", head={"kind": "mlp", "hidden": 512}, layer=LAYERS[peak], lr=1e-3,
        seeds=[{"seed": i, "test": {name: of["seeds"][i] for name, of in metrics.items()}} for i in range(N_SEEDS)],
        metrics=metrics, score=score,
        grid=grid, versions=library_versions(),
    )  # fmt: skip
    return Result(**(fields | changes))


def save_run(folder: Path, model: str, skill: float, tasks: tuple[str, ...] = tuple(TASKS), **changes: object) -> Path:
    """A folder of results of one model."""
    command = ["mert", "bench", "run", "-m", model, "-t", ",".join(name for name in TASKS if name in tasks), "-o", "m"]
    for task in tasks:
        outputs = outputs_of(task, skill, 400 if task == "nsynth_pitch" else 120)
        result_of(task, outputs, model, **({"command": command} | changes)).save(folder, outputs)
    return folder


def made_training(folder: Path, steps: int = 8, **changes: object) -> Path:
    """A run as `mert pretrain` leaves it, with a fitted teacher: two codebooks and frames, validated once."""
    teacher = folder / "teachers" / "mel_rvq"
    facts = {"name": "mel_rvq", "licence": "MIT", "fingerprint": "fe" * 32, "settings": {"mel": {"hop": 321}}}
    write_json(teacher / "teacher.json", facts)
    save_file({"codebooks": np.zeros((2, 77, 3), np.float32)}, teacher / "teacher.safetensors")
    recipe = {
        "out": str(folder / "run"), "data": "synth", "data_options": {"seconds": 1.5},
        "teachers": [str(teacher), "cqt"], "model": {"dim": 32}, "seed": 4321, "steps": 9, "validate_clips": 34,
        "batch_clips": 48, "group_clips": 16,
        "clip_s": 7.5, "lr": 0.00123, "warmup_steps": 3, "weight_decay": 0.02, "betas": [0.91, 0.97], "eps": 1e-7,
        "clip_norm": 2.5, "mask_probability": 0.65, "mask_length": 6, "mixing": {"apply_prob": 0.45},
        "weights": {"codes": 1.25}, "dtype": "bfloat16", "filterbank_start": True, "codebook_start": False,
    }  # fmt: skip
    run = folder / "run"
    run.mkdir()
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe | changes, sort_keys=False))
    rows = [{"step": step, "loss": 9.0 - step, "seconds": 90.0} for step in range(1, steps + 2)]
    rows[steps - 1] |= {
        "valid/loss": 6.789, "valid/mel_rvq/accuracy_0": 0.2345, "valid/mel_rvq/accuracy_1": 0.0678,
        "valid/mel_rvq/most_frequent_0": 0.0123, "valid/mel_rvq/most_frequent_1": 0.0234,
        "valid/mel_rvq/perplexity_0": 56.4, "valid/mel_rvq/perplexity_1": 65.2, "valid/cqt/error": 0.876,
    }  # fmt: skip
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (run / "curves.png").write_bytes(b"a picture")
    state = {"corpus": "c0" * 32, "teachers": {"cqt": "ab" * 32}, "licences": {"cqt": "Apache-2.0"}}
    write_json(run / "ckpt" / f"step_{steps:08d}" / "COMPLETE.json", {"step": steps, "state": state})
    return run


def made_measured(kind: str, sha256: str, seed: int = 0) -> dict[str, Any]:
    """A JSON of `mert bench robustness` or `triplets` on two recordings: a model of two layers and a baseline."""
    random = np.random.default_rng(seed)

    def summary(scale: float) -> dict[str, Any]:
        low, mean, high = np.sort(scale * random.random(3)).tolist()
        return {"mean": mean, "ci95": [low, high]}

    models = []
    for name, sha, layers in (("its-old-name", sha256, ("embed", "layer01")), ("log-mel", "b" * 64, ("log-mel",))):
        model = {"name": name, "sha256": sha, "context": "training" if len(layers) > 1 else "window"}
        one = {"model": model, "layer": layers[-1], "n_segments": 7, "n_recordings": 2}
        if kind == "triplets":
            one |= {"n_triplets": 1234, "n_anchor_recordings": 2, "layers": {layer: summary(100) for layer in layers}}
        else:
            changes = {
                change: {layer: {"cosine": summary(1), "retrieval": summary(100)} for layer in layers}
                for change in ("gain -6 dB", "MP3, 64 kbit/s")
            }
            one |= {"chance": 100 / 7, "changes": changes}
        models.append(one)
    command = ["mert", "bench", kind, "-m", "its-old-name", "-m", "log-mel", "AUDIO", "-o", f"{kind}.json"]
    recordings = [{"name": f"{name}.wav", "sha256": name * 64, "seconds": 10.0, "segments": 3} for name in "ab"]
    return {
        "format": f"mert-{kind}", "schema": 1, "segment_s": 3.0, "recordings": recordings, "models": models,
        "command": command,
    }  # fmt: skip
