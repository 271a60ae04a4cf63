"""The page in a real browser: a sound is dropped, named, played and downloaded; nothing leaves the machine."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote, urlsplit
from urllib.request import Request, urlopen

import numpy as np
import pytest
import soundfile
from harness.made_heads import made_head, save_heads
from harness.sounds import tiny_embedder

import mert

CHROMIUM = shutil.which("chromium")
RATE_HZ = 24_000
pytestmark = [
    pytest.mark.skipif(find_spec("gradio") is None, reason="the extra [app] is not installed"),
    pytest.mark.skipif(CHROMIUM is None, reason="Debian's chromium is not installed"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


def song(seed: int, seconds: float = 6.0) -> np.ndarray:
    random = np.random.default_rng(seed)
    time_N = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    tones = sum(np.sin(2 * np.pi * hz * time_N) for hz in random.uniform(100, 1000, 3))
    return (0.1 * tones + 0.01 * random.standard_normal(len(time_N))).astype(np.float32)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with heads, and a folder of three songs."""
    folder = tmp_path_factory.mktemp("page")
    m = mert.load(mert.save_pretrained(tiny_embedder(0), folder / "tiny"))
    save_heads(
        folder / "tiny" / "heads", key=made_head(m, "key", 1), genre=made_head(m, "genre", 2, least=(0.0,) * 4),
        beats=made_head(m, "beats", 4),
    )  # fmt: skip
    (folder / "songs").mkdir()
    for seed in range(3):
        soundfile.write(folder / "songs" / f"song {seed}.wav", song(seed), RATE_HZ)
    soundfile.write(folder / "dropped.wav", song(1) + 1e-4, RATE_HZ)
    return folder


@pytest.fixture(scope="module")
def address(home: Path) -> Iterator[str]:
    """Where `mert app FOLDER` serves."""
    command = [sys.executable, "-m", "mert", "app", home / "songs", "-m", home / "tiny", "-d", "cpu", "--no-open"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with subprocess.Popen(
        [*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        said = ""
        while not (found := re.search(r"http://127\.0\.0\.1:\d+", said)):
            line = process.stdout.readline()
            assert line, said
            said += line
        yield found[0]
        process.terminate()


@pytest.fixture
def browser_page(address: str) -> Iterator[tuple[Any, list[str]]]:
    """The open page, and the addresses elsewhere that the browser was not kept from asking."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page, asked = browser.new_page(viewport={"width": 1400, "height": 1500}), list[str]()

        def ended(request: Any) -> None:
            if urlsplit(request.url).hostname not in ("127.0.0.1", "localhost", None) and request.failure != "csp":
                asked.append(f"{request.url}: {request.failure}")

        page.on("requestfinished", ended)
        page.on("requestfailed", ended)
        page.goto(address)
        yield page, asked
        browser.close()


def test_a_dropped_sound_is_named_played_and_downloaded(
    browser_page: tuple[Any, list[str]], home: Path, tmp_path: Path
) -> None:
    page, asked = browser_page
    page.set_input_files("#sound input[type=file]", home / "dropped.wav")
    page.wait_for_selector("#track .mert-track img", timeout=60_000)
    described = page.inner_text("#description")
    m = mert.load(home / "tiny")
    wanted = m.describe(home / "dropped.wav")
    assert f"{wanted.predictions['key'].labels[0]} (" in described
    assert "6.0 s" in described
    # The most similar recording of the folder is the same song.
    assert "song 1.wav" in page.inner_text("#nearest .mert-near:first-of-type")
    assert page.locator("#nearest audio").count() == 3
    # The player plays, its playheads follow, and a click on a picture plays from there.
    page.evaluate("document.querySelector('#track audio').currentTime = 3")
    page.wait_for_function("document.querySelector('#track .mert-playhead').style.left.startsWith('50')")
    captions = page.locator("#track .mert-caption").all_inner_texts()
    assert captions[0] == "waveform of 6.0 s, with beats" and captions[1].startswith("genre over time: white for")
    box = page.locator("#track .mert-picture img").first.bounding_box()
    page.mouse.click(box["x"] + 0.25 * box["width"], box["y"] + box["height"] / 2)
    page.wait_for_function("Math.abs(document.querySelector('#track audio').currentTime - 1.5) < 0.05")
    near = "document.querySelector('#nearest audio')"
    page.wait_for_function(f"{near}.duration > 5")  # served, and decoded
    # What is downloaded is what Python gives.
    found = {}
    for link in page.locator("#downloads a").all():
        with page.expect_download() as download:
            link.click()
        name = download.value.suggested_filename
        download.value.save_as(tmp_path / name)
        found[name] = tmp_path / name
    assert json.loads(found["dropped.json"].read_text())["key"] == wanted.as_dict()["key"]
    features = mert.Features.load(found["dropped.wav.npz"])
    again = m.embed(home / "dropped.wav", layers=[-1], dtype=features.meta["dtype"])
    assert np.allclose(features.values, again.values, atol=0.05)  # bfloat16 where it is native
    assert "m.describe(" in page.inner_text("#code")
    if pictures := os.environ.get("MERT_PICTURES"):
        page.screenshot(path=Path(pictures) / "page.png", full_page=True)
    assert not asked, "the page asked other machines"


def test_what_cannot_be_read_is_said(browser_page: tuple[Any, list[str]], tmp_path: Path) -> None:
    page, _ = browser_page
    (tmp_path / "broken.wav").write_bytes(b"RIFF and no sound")
    page.set_input_files("#sound input[type=file]", tmp_path / "broken.wav")
    page.wait_for_selector(".toast-body, .toast-wrap", timeout=60_000)
    assert "broken.wav" in page.inner_text(".toast-wrap, .toast-body")


def test_only_recordings_of_the_folder_are_given_out_and_only_to_localhost(address: str, home: Path) -> None:
    (home / "songs" / "private.html").write_text("<script>alert(1)</script>")

    def status(path: Path, host: str = "127.0.0.1") -> int:
        request = Request(f"{address}/gradio_api/file={quote(str(path))}", headers={"Host": host})
        try:
            with urlopen(request, timeout=30) as answer:
                return int(answer.status)
        except HTTPError as error:
            return error.code

    assert status(home / "songs/song 0.wav") == 200
    assert status(home / "songs/private.html") == 403
    assert status(home / "songs/.mert-index/index.json") == 403
    assert status(home / "dropped.wav") in (403, 404)  # outside of the folder
    assert status(home / "songs/song 0.wav", "evil.example") == 400
