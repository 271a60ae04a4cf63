"""Encoders in the form of other libraries, by those libraries where they are installed."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from harness.sounds import music, tiny_embedder
from torch.utils.data import DataLoader

import mert
from mert.embedding.adapters import hear
from mert.embedding.embedder import Embedder

RATE_HZ = 48_000


@pytest.fixture(scope="module")
def m() -> Embedder:
    return tiny_embedder(0)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("adapters")
    for seed in range(4):
        soundfile.write(folder / f"{seed}.wav", music(1.0 + seed / 2, 24_000, seed=seed), 24_000)
    return [str(folder / f"{seed}.wav") for seed in range(4)]


def test_hear_gets_vectors_frames_and_times(m: Embedder, tmp_path: Path) -> None:
    model = hear.load_model(str(mert.save_pretrained(m, tmp_path / "tiny")))
    sounds = torch.from_numpy(np.stack([music(1.5, RATE_HZ, seed=seed) for seed in range(2)])).float()
    frames, times = hear.get_timestamp_embeddings(sounds, model)
    scenes = hear.get_scene_embeddings(sounds, model)
    assert frames.shape == (2, times.shape[1], model.timestamp_embedding_size)
    assert scenes.shape == (2, model.scene_embedding_size)
    wanted = m.embed(sounds[1].numpy(), sr=RATE_HZ, layers=["last"])
    np.testing.assert_allclose(frames[1].numpy(), wanted.values[0], rtol=0, atol=1e-5)  # of a batch, and alone
    assert times[1].numpy() == pytest.approx(1000 * wanted.times, abs=0.01)  # milliseconds
    assert torch.allclose(frames.mean(1), scenes, atol=1e-5)


def test_scikit_learn_fits_on_files_and_a_pickled_pipeline_predicts_alike(m: Embedder, files: list[str]) -> None:
    pytest.importorskip("sklearn")
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, StandardScaler

    pipeline = make_pipeline(FunctionTransformer(m.encode), StandardScaler(), LogisticRegression())
    pipeline.fit(files, ["a", "b", "a", "b"])
    assert pipeline.predict(files).tolist() == ["a", "b", "a", "b"]
    again = pickle.loads(pickle.dumps(pipeline))
    assert np.allclose(again.predict_proba(files), pipeline.predict_proba(files), atol=1e-6)


def test_datasets_maps_over_files(m: Embedder, files: list[str]) -> None:
    pytest.importorskip("datasets")
    from datasets import Dataset

    songs = Dataset.from_dict({"path": files}).map(lambda rows: {"vector": m.encode(rows["path"])}, batched=True)
    assert np.allclose(songs["vector"], m.encode(files), atol=1e-6)


def test_a_loader_collates_waves_of_any_lengths(m: Embedder) -> None:
    waves = [music(seconds, 24_000, seed=1) for seconds in (0.5, 1.0, 0.75)]
    loader = DataLoader(waves, 3, collate_fn=lambda items: m.encode(items, sr=24_000))  # type: ignore[arg-type]
    assert np.allclose(next(iter(loader)), np.concatenate([m.encode([wave], sr=24_000) for wave in waves]), atol=1e-5)


def test_threads_may_share_an_embedder(m: Embedder, files: list[str]) -> None:
    alone = [m.encode([file]) for file in files]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda file: m.encode([file]), 8 * files))
    for found, wanted in zip(together, 8 * alone, strict=True):
        assert np.array_equal(found, wanted)


def test_sentence_transformers_encodes_and_loads_what_it_saved(m: Embedder, files: list[str], tmp_path: Path) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers", minversion="6")
    from mert.embedding.adapters.sentence import RecordingModule

    model = sentence_transformers.SentenceTransformer(modules=[RecordingModule(m, "layer01")], device="cpu")
    assert np.allclose(model.encode(files), m.encode(files, layer="layer01"), atol=1e-5)
    wave, rate = soundfile.read(files[2], dtype="float32")
    assert np.allclose(
        model.encode([{"array": wave, "sampling_rate": rate}]), m.encode(files[2:3], layer="layer01"), atol=1e-5
    )
    model.save_pretrained(str(tmp_path / "saved"))
    again = sentence_transformers.SentenceTransformer(str(tmp_path / "saved"), device="cpu", trust_remote_code=True)
    assert np.allclose(again.encode(files), m.encode(files, layer="layer01"), atol=1e-5)
    assert model.similarity(model.encode(files), again.encode(files)).diagonal().numpy() == pytest.approx(1, abs=1e-5)


def test_mteb_gets_vectors_of_its_batches(m: Embedder, files: list[str]) -> None:
    pytest.importorskip("mteb", minversion="2")
    from mert.embedding.adapters.mteb import MtebEncoder

    read = [soundfile.read(file, dtype="float32") for file in files]
    batches = [{"audio": [{"array": wave, "sampling_rate": rate} for wave, rate in read[i : i + 2]]} for i in (0, 2)]
    encoder = MtebEncoder(m)
    assert np.allclose(encoder.encode(batches), m.encode(files), atol=1e-5)
    assert encoder.mteb_model_meta.modalities == ["audio"]
