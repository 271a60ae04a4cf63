"""Downloading, checking, caching and publishing, with the real client against a hub on localhost."""

import json
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import soundfile
import torch
from harness.commands import run_mert
from harness.hub_server import Hub
from harness.made_heads import made_head, save_heads
from huggingface_hub import constants, file_download
from safetensors.torch import load_file, save_file

import mert
from mert.embedding.embedder import Embedder
from mert.errors import CheckpointError
from mert.files import sha256_file
from mert.models.config import MertConfig
from mert.models.mert import Mert
from mert.weights import hub as mert_hub
from mert.weights import registry
from mert.weights.cards import read_card
from mert.weights.checkpoints import export_hubert, load_model, write_model, write_tensors
from mert.weights.golden import verify
from mert.weights.hub import fetch, folder_of, trust_file
from mert.weights.publish import save_pretrained
from mert.weights.registry import REGISTRY, ModelInfo

TINY = MertConfig(dim=32, n_layers=2, n_heads=2, ffn_dim=64, conv_dim=16, position_kernel=16, position_groups=4)
FAMILIES = Path(os.environ.get("MERT_REFERENCE", "")) / "families"
REPO = "someone/tiny"


def tiny(seed: int = 0) -> Mert:
    torch.manual_seed(seed)
    return Mert(TINY).eval()


def embedder(seed: int = 0, **known: str) -> Embedder:
    model = tiny(seed)
    return Embedder(model, replace(ModelInfo.of(model, "tiny"), **known), "unsaved", "cpu")


def same(model: torch.nn.Module, other: torch.nn.Module) -> bool:
    ours, theirs = model.state_dict(), other.state_dict()
    return all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub whose address the client would otherwise have read from HF_ENDPOINT when it was imported."""
    with Hub() as hub:
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        for module in (constants, file_download):
            monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(mert_hub, "_licences_shown", set())
        yield hub


@pytest.fixture
def published(server: Hub, tmp_path: Path) -> str:
    """The commit of a tiny model at someone/tiny, in our format."""
    return server.commit_folder(REPO, write_model(tiny(), tmp_path / "source"))


def gets(server: Hub, filename: str) -> int:
    return sum(method == "GET" and path.endswith(filename) for method, path, _ in server.requests)


def weights_in_cache(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "cache").rglob("snapshots/*/*") if path.name in mert_hub._WEIGHTS]


def test_a_repository_loads_at_its_commit_and_from_cache(server: Hub, published: str) -> None:
    model = mert.load(REPO, device="cpu")
    assert same(model.model, tiny())
    assert (model.info.name, model.info.revision, model.info.licence) == (REPO, published, "unknown")
    assert model.sha256 == model.info.sha256 == json.loads(trust_file().read_text())[f"{REPO}@main/model.safetensors"]
    assert same(mert.load(REPO, published, "cpu").model, tiny())
    assert gets(server, "model.safetensors") == 1
    assert not any("pytorch_model.bin" in path for _, path, _ in server.requests)


def test_bin_is_taken_where_no_safetensors_are(server: Hub, tmp_path: Path) -> None:
    folder = export_hubert(tiny(), tmp_path / "source")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    server.commit_folder(REPO, folder)
    model = mert.load(REPO, device="cpu")
    assert same(model.model, tiny()) and model.model.config.normalize is True
    assert model.sha256 == sha256_file(folder / "pytorch_model.bin")


def test_registered_models_are_pinned_and_their_licence_is_shown_once(
    server: Hub, published: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sha256 = sha256_file(tmp_path / "source" / "model.safetensors")
    record = ModelInfo.of(tiny(), "mert-tiny", REPO, licence="CC BY-NC 4.0")
    monkeypatch.setitem(REGISTRY, "mert-tiny", replace(record, revision=published, sha256=sha256))
    server.commit_folder(REPO, write_model(tiny(seed=1), tmp_path / "moved"))
    with caplog.at_level(logging.WARNING, "mert"):
        for name in ("mert-tiny", REPO, "MERT-Tiny"):
            model = mert.load(name, device="cpu")
            assert same(model.model, tiny()) and model.info.revision == published and model.info.name == "mert-tiny"
    assert [r.getMessage() for r in caplog.records] == ["mert-tiny: weights under CC BY-NC 4.0"]
    assert not trust_file().exists()  # the registry's hash was used
    assert same(mert.load(REPO, "main", "cpu").model, tiny(seed=1))


def test_wrong_checksum_is_quarantined_and_downloaded_anew(server: Hub, published: str, tmp_path: Path) -> None:
    sha256 = sha256_file(tmp_path / "source" / "model.safetensors")
    server.wrong_bytes.add("model.safetensors")  # truncated files are caught by size, these have the right one
    with pytest.raises(CheckpointError, match=r"moved aside to .*quarantined") as caught:
        fetch(REPO, published, sha256)
    assert sha256 in str(caught.value)
    assert weights_in_cache(tmp_path) == []
    assert len(list((tmp_path / "cache").rglob("blobs/*.quarantined"))) == 1
    server.wrong_bytes.clear()
    assert same(load_model(fetch(REPO, published, sha256))[0], tiny())
    assert gets(server, "model.safetensors") == 3


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "README.md"])
def test_a_download_that_is_not_what_the_hub_announces_is_fetched_anew(
    server: Hub, published: str, tmp_path: Path, name: str
) -> None:
    server.commit_folder(REPO, save_pretrained(embedder(), tmp_path / "model"))
    server.wrong_once.add(name)
    assert same(mert.load(REPO, device="cpu").model, tiny())
    assert gets(server, name) == 2
    recorded = json.loads(trust_file().read_text())[f"{REPO}@main/model.safetensors"]
    assert recorded == sha256_file(tmp_path / "model" / "model.safetensors")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_what_does_not_load_is_never_trusted(server: Hub, published: str, name: str) -> None:
    server.etags[name] = "an-etag-that-is-no-hash"
    server.wrong_bytes.add(name)
    with pytest.raises(CheckpointError, match=r"moved aside to .*quarantined.*load again"):
        mert.load(REPO, device="cpu")
    assert not trust_file().exists()
    server.wrong_bytes.clear()
    assert same(mert.load(REPO, device="cpu").model, tiny())


def test_an_intact_file_that_is_no_model_is_not_downloaded_again(server: Hub) -> None:
    server.commit(REPO, {"config.json": b'{"model_type": "bert"}', "model.safetensors": b"none"})
    for _ in range(2):
        with pytest.raises(CheckpointError):
            mert.load(REPO, device="cpu")
    assert gets(server, "model.safetensors") == 1 and not trust_file().exists()


def test_an_empty_etag_is_an_error_of_the_download(server: Hub, published: str, tmp_path: Path) -> None:
    server.etags["config.json"] = ""
    fetched = r"config\.json: (the hub gives it no name \(an empty ETag\)|download failed)"
    for _ in range(2):
        with pytest.raises(CheckpointError, match=fetched):
            mert.load(REPO, device="cpu")
    assert not list((tmp_path / "cache").rglob("*.quarantined"))  # its place in the cache is the folder of all blobs


def test_first_hash_is_recorded_and_held_to(server: Hub, published: str, tmp_path: Path) -> None:
    fetch(REPO)
    fetch(REPO)
    server.commit_folder(REPO, write_model(tiny(seed=1), tmp_path / "changed"))
    for _ in range(2):
        with pytest.raises(CheckpointError, match=f"{REPO}@main/model.safetensors: sha256 is .*remove its line"):
            mert.load(REPO, device="cpu")
    assert same(mert.load(REPO, published, "cpu").model, tiny())
    trust_file().unlink()
    assert same(mert.load(REPO, device="cpu").model, tiny(seed=1))


def test_a_file_changed_in_the_cache_is_noticed(server: Hub, published: str, tmp_path: Path) -> None:
    weights = fetch(REPO, published) / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.resolve().write_bytes(content)
    with pytest.raises(CheckpointError, match="moved aside"):
        fetch(REPO, published)
    assert same(load_model(fetch(REPO, published))[0], tiny())


def test_an_unreadable_record_of_hashes_is_an_error_not_a_fresh_start(server: Hub, published: str) -> None:
    fetch(REPO)
    trust_file().write_text("{")
    with pytest.raises(CheckpointError, match="is not JSON"):
        fetch(REPO)


def test_interrupted_downloads_serve_nothing_half_written(
    server: Hub, published: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 4096)  # a large file in small
    server.drop_once.add("model.safetensors")
    try:
        folder = fetch(REPO)  # the newer client resumes by itself
    except CheckpointError as error:
        assert "download failed" in str(error) and weights_in_cache(tmp_path) == []
        folder = fetch(REPO)  # the older one does in the next call
    assert same(load_model(folder)[0], tiny())
    assert any(ranged for _, path, ranged in server.requests if path.endswith("model.safetensors"))


@pytest.mark.parametrize("fault", ["trickled", "busy"])
def test_a_hub_that_never_finishes_its_answer_is_an_error(
    server: Hub, published: str, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setattr(mert_hub, "ANSWER_S", 1.0)
    getattr(server, fault).add("config.json")
    started = time.monotonic()
    with pytest.raises(CheckpointError, match=r"config\.json: .*\(no whole answer in 1 s\)|config\.json: .*\(429"):
        fetch(REPO)
    assert time.monotonic() - started < 5


def test_what_the_hub_does_not_have_is_said(server: Hub, published: str, tmp_path: Path) -> None:
    server.commit("someone/empty", {"README.md": b""})
    server.commit("someone/weightless", {"config.json": (tmp_path / "source" / "config.json").read_bytes()})
    for name, revision, match in (
        ("someone/absent", None, "no such repository"),
        (REPO, "0" * 40, "no revision 000"),
        ("someone/empty", None, "no config.json"),
        ("someone/weightless", None, "no model.safetensors or pytorch_model.bin"),
        ("some--one/..", None, "download failed"),
        ("mert-v1-95", None, "try mert-v1-95m"),
        ("./absent/folder", None, "no such file or folder"),
    ):
        with pytest.raises(CheckpointError, match=match):
            mert.load(name, revision)


def test_files_of_a_commit_in_the_cache_need_no_connection(
    server: Hub, published: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where packets are dropped, each attempt takes ten seconds."""
    fetch(REPO)
    server.requests.clear()
    attempts: list[object] = []
    connect = socket.create_connection
    monkeypatch.setattr(socket, "create_connection", lambda *to, **how: (attempts.append(to), connect(*to, **how))[1])
    assert same(mert.load(REPO, published, "cpu").model, tiny())
    assert server.requests == [] and attempts == []
    assert same(mert.load(REPO, device="cpu").model, tiny())
    assert len(attempts) == 1  # asks where the branch is


def test_an_unreachable_hub_is_at_once_an_error_or_the_cache(
    server: Hub, published: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fetch(REPO)
    dead = "http://127.0.0.1:9"
    for module in (constants, file_download):
        monkeypatch.setattr(
            module, "HUGGINGFACE_CO_URL_TEMPLATE", dead + "/{repo_id}/resolve/{revision}/{filename}", raising=False
        )
    monkeypatch.setattr(constants, "ENDPOINT", dead)
    started = time.monotonic()
    assert same(mert.load(REPO, device="cpu").model, tiny())
    with pytest.raises(CheckpointError, match="cannot be reached") as caught:
        fetch("someone/other")
    assert time.monotonic() - started < 5  # the client alone tries for 23 s
    assert caught.value.__suppress_context__ and caplog.messages == []  # one error, not a chain of four
    monkeypatch.setattr(constants, "ENDPOINT", "http://hub.invalid")
    monkeypatch.setenv("http_proxy", dead)
    started = time.monotonic()
    with pytest.raises(CheckpointError, match="cannot be reached"):
        fetch("someone/other")
    assert time.monotonic() - started < 5


def test_environment_variables_and_offline_mode(server: Hub, published: str, tmp_path: Path) -> None:
    code = (
        "import sys, mert\n"
        "for repo in sys.argv[1:]:\n"
        "    try: print(mert.load(repo, device='cpu').info.revision)\n"
        "    except mert.CheckpointError as error: print('refused:', error)"
    )

    def run(*repos: str, **variables: str) -> str:
        env = {**os.environ, "HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "home"),
               "HF_HUB_DISABLE_XET": "1", **variables}  # fmt: skip
        command = [sys.executable, "-W", "error", "-c", code, *repos]
        return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout.strip()

    assert run(REPO) == published
    server.requests.clear()
    kept, refused = run(REPO, "someone/other", HF_HUB_OFFLINE="1").splitlines()
    assert kept == published and "is not in the cache" in refused
    assert server.requests == []


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # from inside huggingface_hub 2
def test_push_and_load_back(server: Hub, tmp_path: Path) -> None:
    folder = save_pretrained(embedder(), tmp_path / "mine", licence="cc-by-4.0")
    (folder / ".secret").write_text("stays here")
    revision = mert.push_to_hub(folder, "me/mine")
    assert set(server.repos["me/mine"][revision]) == {
        ".gitattributes", "README.md", "config.json", "golden.safetensors", "model.safetensors"
    }  # fmt: skip
    loaded = mert.load("me/mine", revision, "cpu")
    assert same(loaded.model, tiny()) and loaded.info.licence == "cc-by-4.0"
    assert verify(folder_of("me/mine", revision)).golden is not None
    assert folder_of(folder) == folder
    assert mert.push_to_hub(save_pretrained(embedder(seed=1), tmp_path / "next"), "me/mine") != revision


HEADS = {f"heads/{name}/{file}" for name in ("beats", "key") for file in ("head.json", "head.safetensors")}


@pytest.fixture
def with_heads(tmp_path: Path) -> Path:
    """The folder of a tiny model with two heads, beside what a killed process left of a third."""
    folder = save_pretrained(embedder(), tmp_path / "mine", licence="cc-by-4.0")
    m = mert.load(folder, device="cpu")
    save_heads(folder / "heads", key=made_head(m, "key", 1), beats=made_head(m, "beats", 2))
    made_head(m, "mood").save(folder / "heads" / ".mood.0123456789ab.1.01234567.old")
    return folder


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # from inside huggingface_hub 2
def test_heads_are_pushed_and_come_back_with_their_model(
    server: Hub, with_heads: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    revision = mert.push_to_hub(with_heads, "me/mine")
    assert {name for name in server.repos["me/mine"][revision] if name.startswith("heads")} == HEADS
    wave_N = np.random.default_rng(0).normal(size=50_000) / 10
    wanted = mert.load(with_heads, device="cpu").describe(wave_N, sr=24_000).predictions
    server.wrong_once.add("heads/key/head.safetensors")  # damaged on the way: fetched anew, as all files are
    loaded = mert.load("me/mine", device="cpu")
    assert loaded.describe(wave_N, sr=24_000).predictions == wanted and wanted.keys() == {"key", "beats"}
    assert gets(server, "heads/key/head.safetensors") == 2
    (folder_of("me/mine") / "heads" / "beats" / "head.json").unlink()  # as if the download had been cut off
    assert mert.load("me/mine", revision, "cpu").describe(wave_N, sr=24_000).predictions == wanted
    server.requests.clear()
    assert mert.load("me/mine", revision, "cpu").heads_folder == loaded.heads_folder and server.requests == []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert mert.load("me/mine", device="cpu").heads_folder == loaded.heads_folder


@pytest.mark.skipif(not FAMILIES.is_dir(), reason="MERT_REFERENCE names no folder of oracles")
@pytest.mark.check
@pytest.mark.skipif(find_spec("pyarrow") is None, reason="the extra [probe] is not installed")
@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # from inside huggingface_hub 2
@pytest.mark.parametrize("family", ["mert2", "muq", "musicfm"])
def test_each_family_is_probed_plotted_and_published_with_a_head(family: str, server: Hub, tmp_path: Path) -> None:
    model, sounds, random = tmp_path / "model", tmp_path / "sounds", np.random.default_rng(0)
    assert run_mert("convert", FAMILIES / family, model).code == 0
    rows = ["file,label"]
    for i in range(24):
        low = np.sin(np.arange(24_000) * random.uniform(0.02, 0.03))
        wave_N = low if i % 2 else random.standard_normal(24_000)
        sounds.mkdir(exist_ok=True)
        soundfile.write(sounds / f"{i}.wav", 0.1 * wave_N, 24_000)
        rows.append(f"{i}.wav,{'tone' if i % 2 else 'noise'}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    on = ("-m", model, "-d", "cpu")
    for words in (
        ("embed", sounds, "-o", tmp_path / "pooled", "--layers", "all", "--pool", "mean", *on),
        ("probe", "fit", tmp_path / "pooled", tmp_path / "labels.csv", "-o", model / "heads" / "sound", "--seeds", "0"),
        ("embed", sounds / "1.wav", "-o", tmp_path / "frames", *on),
        ("plot", "ssm", tmp_path / "frames" / "1.wav.npz", "-o", tmp_path / "ssm.png"),
        ("verify", model),
        ("push", model, "me/family"),
    ):
        run = run_mert(*words)
        assert run.code == 0, run.err
    assert (tmp_path / "ssm.png").stat().st_size > 10_000
    fetched = mert.load("me/family", device="cpu")
    told = [fetched.describe(sounds / f"{i}.wav").predictions["sound"].labels for i in (0, 1)]
    assert told == [("noise",), ("tone",)]


def test_heads_are_those_of_the_commit(server: Hub, published: str, with_heads: Path) -> None:
    server.commit_folder(REPO, with_heads)
    assert mert.load(REPO, published, "cpu").heads_folder is None
    assert mert.load(REPO, "main", "cpu").heads_folder is not None


def test_a_hub_that_lists_no_files_gives_the_model_alone(
    server: Hub, with_heads: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Some mirrors serve files and nothing else; what they do not say is not taken for an answer."""
    server.commit_folder(REPO, with_heads)
    with monkeypatch.context() as without_list:
        without_list.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: 1 / 0)
        assert mert.load(REPO, device="cpu").heads_folder is None
    assert "comes without heads, as its files cannot be listed" in caplog.text
    assert mert.load(REPO, device="cpu").heads_folder is not None


def test_push_refuses_heads_of_other_weights(server: Hub, with_heads: Path) -> None:
    other = mert.load(save_pretrained(embedder(seed=1), with_heads.parent / "other"), device="cpu")
    save_heads(with_heads / "heads", key=made_head(other, "key"))
    with pytest.raises(CheckpointError, match=r"heads/key: was fitted on other .*fit it again, or remove its folder"):
        mert.push_to_hub(with_heads, "me/mine")
    assert server.repos == {}


def test_push_refuses_what_does_not_verify_or_cannot_be_sent(
    server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_pretrained(embedder(), tmp_path / "mine")
    write_model(tiny(seed=1), folder)
    with pytest.raises(CheckpointError, match="sha256"):
        mert.push_to_hub(folder, "me/mine")
    assert server.repos == {}
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(CheckpointError, match="upload failed"):
        mert.push_to_hub(save_pretrained(embedder(), tmp_path / "good"), "me/mine")


def test_saved_folders_verify_and_load_with_honest_labels(tmp_path: Path) -> None:
    note = 'random initialisation, untrained: "as is"'
    folder = save_pretrained(embedder(note=note, licence="CC BY-NC 4.0"), tmp_path / "mine")
    report = verify(folder)
    assert report.golden is not None and report.golden <= 1e-5
    assert str(report).startswith(f"51 of 51 tensors, sha256 {report.sha256[:12]}, golden: largest difference ")
    loaded = mert.load(folder, device="cpu")
    assert same(loaded.model, tiny()) and loaded.sha256 == sha256_file(folder / "model.safetensors")
    assert (loaded.info.name, loaded.info.note, loaded.info.licence) == ("mine", note, "cc-by-nc-4.0")
    card = (folder / "README.md").read_text()
    assert f"> **{note}**" in card and loaded.sha256 in card and "75 Hz" in card
    assert "pip install mert " not in card and "pip install mert[" not in card


def test_verify_names_what_is_wrong(tmp_path: Path) -> None:
    folder = save_pretrained(embedder(), tmp_path / "mine")
    weights, golden = folder / "model.safetensors", folder / "golden.safetensors"
    good, states = load_file(weights), load_file(golden)
    name = "encoder.blocks.1.ffn.up.weight"
    write_tensors(weights, {**good, name: -good[name]})
    with pytest.raises(CheckpointError, match=r"model\.safetensors: sha256 is"):
        verify(folder)
    write_tensors(golden, states, {"sha256": sha256_file(weights)})  # a forged hash does not help
    with pytest.raises(CheckpointError, match="layer02 differs from its golden state"):
        verify(folder)
    for bad in ({**states, "states": states["states"][:2]}, {**states, "wave": states["wave"][:399]},
                {"wave": states["wave"]}):  # fmt: skip
        write_tensors(golden, bad, {"sha256": sha256_file(weights)})
        with pytest.raises(CheckpointError, match=r"golden\.safetensors"):
            verify(folder)
    write_tensors(golden, {**states, "states": states["states"] * torch.nan}, {"sha256": sha256_file(weights)})
    with pytest.raises(CheckpointError, match="embed differs"):
        verify(folder)
    golden.unlink()
    assert str(verify(folder)).endswith("golden: none")
    save_file({**good, name: good[name] * torch.nan}, weights)
    with pytest.raises(CheckpointError, match=f"{name} holds NaN"):
        verify(folder)


def test_local_paths(tmp_path: Path) -> None:
    folder = export_hubert(tiny(), tmp_path / "exported")
    (folder / "README.md").write_text("---\nlicense: mit\ntags:\n- license: x\n---\n# Title\n---\n")
    info = mert.load(str(folder), device="cpu").info
    assert (info.name, info.repo, info.licence, info.revision) == ("exported", str(folder), "mit", None)
    assert mert.load(folder / "model.safetensors", device="cpu").info.name == "exported"
    with pytest.raises(CheckpointError, match="no revisions"):
        mert.load(folder, "main")


@pytest.mark.parametrize("text", ["", "# Title\n---\nlicense: mit\n---\n", "---\nlicense: mit\n", "\xff"])
def test_cards_without_front_matter_say_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "README.md").write_text(text, encoding="latin-1")
    assert read_card(tmp_path) == {}
    assert read_card(tmp_path / "absent") == {}


def test_a_card_moves_no_cursor_and_names_no_window(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text('---\nlicense: "mit\\u001b]0;x\\u0007"\nnote: a\x1b[2Jb é 雨\n---\n')
    assert read_card(tmp_path) == {"license": "mit]0;x", "note": "a[2Jb é 雨"}


def test_registry() -> None:
    assert registry.list_models("MERT-V0*") == ["mert-v0", "mert-v0-public"]
    record = registry.info("m-a-p/MERT-v1-95M")
    assert record is registry.info("mert-v1-95m") and record.revision and record.sha256
    assert len(record.revision) == 40 and len(record.sha256) == 64
    free = {name: model.licence for name, model in REGISTRY.items() if model.licence != "CC BY-NC 4.0"}
    speech = {name: "Apache-2.0" for name in ("hubert-base-ls960", "wav2vec2-base")}
    own = {name: "Apache-2.0" for name in ("mert-nano", "mert-nano-1")}
    assert free == own | {"musicfm-msd": "MIT", "musicfm-fma": "MIT"} | speech
    assert {name for name, model in REGISTRY.items() if model.recommended_layer} == {
        "mert-nano", "mert-nano-1", "musicfm-msd", "musicfm-fma"
    }  # fmt: skip
    assert registry.list_models(family="mert-v2") == ["mert-v2-30s", "mert-v2-fullsong"]
    assert registry.info("m-a-p/MERT-v2-30s").frame_rate == 25.0
    assert registry.info("mert-v0").frame_rate == 50.0
    assert registry.info("mert-v1-330m").facts()["sha256"] == "not on record"
    with pytest.raises(CheckpointError, match="try mert-v1-330m"):
        registry.info("mert-v1-330")
    assert huggingface_hub.utils.validate_repo_id("m-a-p/MERT-v1-95M") is None


@pytest.mark.skipif(not FAMILIES.is_dir(), reason="MERT_REFERENCE has no families")
@pytest.mark.parametrize(
    ("name", "folder"), [("mert-v2-30s", "mert2"), ("muq-large-msd", "muq"), ("musicfm-msd", "musicfm")]
)
def test_other_families_come_by_their_names(
    server: Hub, monkeypatch: pytest.MonkeyPatch, name: str, folder: str
) -> None:
    """Small models in the published layouts, in the repositories of the published ones."""
    record = registry.info(name)
    commit = server.commit_folder(record.repo, FAMILIES / folder)
    monkeypatch.setitem(REGISTRY, name, replace(record, revision=commit, sha256=None, recommended_layer=None))
    m, local = mert.load(name, device="cpu"), mert.load(FAMILIES / folder, device="cpu")
    assert m.sha256 == local.sha256 and m.info.revision == commit and m.info.family == record.family
    wave_N = np.random.default_rng(0).normal(size=30_000) / 10
    assert np.array_equal(m.encode([wave_N], sr=24_000), local.encode([wave_N], sr=24_000))
    assert np.array_equal(mert.load(name, device="cpu").encode([wave_N], sr=24_000), m.encode([wave_N], sr=24_000))
    if record.file:
        assert gets(server, record.file) == 1


def test_wav2vec2_is_read_with_its_heads_dropped(tmp_path: Path) -> None:
    """The published spelling: the network behind a prefix, beside the heads of its training."""
    transformers = pytest.importorskip("transformers", reason="the oracle comes with the full environment")
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
             "num_conv_pos_embedding_groups": 4, "num_conv_pos_embeddings": 16, "conv_dim": [32] * 7}  # fmt: skip
    torch.manual_seed(0)
    theirs = transformers.Wav2Vec2ForPreTraining(transformers.Wav2Vec2Config(**small)).eval()
    theirs.save_pretrained(tmp_path)
    m = mert.load(tmp_path, device="cpu")
    assert (m.sample_rate, m.frame_rate) == (16_000, 50.0)
    wave_N = np.random.default_rng(0).normal(size=16_000).astype(np.float32)
    normal_N = (wave_N - wave_N.mean()) / np.sqrt(wave_N.var() + 1e-7)
    with torch.inference_mode():
        wanted = theirs.wav2vec2(torch.from_numpy(normal_N)[None], output_hidden_states=True).hidden_states
    got = m.embed(wave_N, sr=16_000, window="whole", dtype="float32")
    for ours, state in zip(got.values, wanted, strict=True):
        assert np.abs(ours - state[0].numpy()).max() < 1e-4
