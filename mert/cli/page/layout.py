"""The page itself: what stands where, and what happens when a sound is dropped or recorded."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any
from urllib.parse import quote

from mert.audio.find import SUFFIXES
from mert.cli.page.pictures import player
from mert.cli.page.sound import Sound, analyse, code, downloads, nearest, track
from mert.collection.index import Index, Match
from mert.describe.describer import Describer
from mert.describe.description import Description, facts
from mert.errors import MertError, UsageError, need

MAX_UPLOAD = "200mb"
KEPT_S = 3600  # after which gradio removes what was uploaded
FONTS = ("system-ui", "sans-serif")  # of the system: nothing is fetched
INTRODUCTION = "Drop a sound, or record one. It stays on this machine."


def page(m: Describer, folder: Path | None = None, index: Index | None = None, model: str | None = None) -> Any:
    """The page as gradio Blocks, to be launched; MertError if the extra [app] is not installed.

    With an index of a folder it also shows the nearest recordings there. `model` is what the model was loaded by.
    """
    gr = need("gradio", "app", "mert app")
    home = TemporaryDirectory(prefix="mert-page-")  # of what is offered, removed with the process at the latest
    theme = gr.themes.Default(font=list(FONTS), font_mono=["ui-monospace", "monospace"])
    script = f"<script>{asset('page.js')}</script>"
    with gr.Blocks(
        title="MERT hub", theme=theme, css=asset("page.css"), head=script, analytics_enabled=False,
        delete_cache=(KEPT_S, KEPT_S),
    ) as blocks:  # fmt: skip
        gr.Markdown(f"## {m.info.name}\n{INTRODUCTION}")
        kept = gr.State()
        with gr.Row():
            with gr.Column(scale=1):
                dropped = gr.Audio(sources=["upload", "microphone"], type="filepath", label="sound", elem_id="sound")
                layer = gr.Slider(
                    0, len(m.layer_names) - 1, m.layer_names.index(m.recommended_layer), step=1,
                    label=f"layer: 0 is embed; {m.recommended_layer} is recommended", elem_id="layer",
                )  # fmt: skip
                described = gr.HTML(elem_id="description")
                fetched = gr.Files(label="description (JSON) and features (npz)", elem_id="downloads")
            with gr.Column(scale=2):
                shown = gr.HTML(elem_id="track")
                near = gr.HTML(elem_id="nearest")
        lines_of_code = gr.Code(label="the same in Python", language="python", elem_id="code")

        def shown_of(sound: Sound, layer: int) -> tuple[Any, ...]:
            offered = downloads(m, sound, layer, new_folder(Path(home.name)))
            path = sound.path
            return offered, track(sound, url(path), layer), code(m, model or m.info.name, path.name, layer)

        def on_sound(path: str | None, layer: int) -> tuple[Any, ...]:
            if path is None:
                return None, "", [], "", "", ""
            with said_to_the_user(gr):
                sound = analyse(m, Path(path))
                offered, pictures, lines = shown_of(sound, layer)
                matches = nearest_html(folder, nearest(m, index, sound)) if folder and index else ""
                return sound, described_html(sound.description), offered, pictures, matches, lines

        def on_layer(sound: Sound | None, layer: int) -> tuple[Any, ...]:
            with said_to_the_user(gr):
                return shown_of(sound, layer) if sound else ([], "", "")

        dropped.change(on_sound, [dropped, layer], [kept, described, fetched, shown, near, lines_of_code])
        layer.release(on_layer, [kept, layer], [fetched, shown, lines_of_code])
    return blocks


@contextmanager
def said_to_the_user(gr: Any) -> Iterator[None]:
    """Errors of the block as messages on the page, with the name of a file and without its folder."""
    try:
        yield
    except (MertError, OSError) as error:
        name = str(getattr(error, "source", "") or getattr(error, "filename", "") or "")
        shown = str(error).replace(name, Path(name).name) if name else str(error)
        raise gr.Error(shown, print_exception=False) from None


def new_folder(home: Path) -> Path:
    """A new folder below `home`, of which those that are as old as gradio's own files are removed."""
    for folder in home.iterdir():
        if time.time() - folder.stat().st_mtime > KEPT_S:
            shutil.rmtree(folder, ignore_errors=True)
    return Path(mkdtemp(dir=home))


def described_html(description: Description) -> str:
    """A description as a table; what sections say is drawn over time."""
    whole = {name: value for name, value in description.as_dict().items() if name != "sections"}
    cells = "".join(f"<tr><th>{escape(name)}</th><td>{escape(text)}</td></tr>" for name, text in facts(whole))
    return f'<table class="mert-description">{cells}</table>'


def nearest_html(folder: Path, matches: list[Match]) -> str:
    """The nearest recordings with their similarity, each with a player."""
    rows = (
        f'<div class="mert-near"><span>{match.similarity:.3f} {escape(match.name)}</span>'
        f"{player(url(str(folder / match.name)), 1.0)}</div>"
        for match in matches
    )
    return f"<h3>most like it in {escape(folder.resolve().name)}</h3>{''.join(rows)}"


class Guard:
    """Middleware: the browser may ask no other machine, and of a folder only recordings are given out.

    Gradio's page names a script of another machine, and serves every file below the folders that it may serve.
    """

    POLICY = b"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:"

    def __init__(self, app: Any, folder: Path | None = None) -> None:
        self.app, self.folder = app, folder.resolve() if folder else None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = [*message.get("headers", ()), (b"content-security-policy", self.POLICY)]
                message = message | {"headers": headers}
            await send(message)

        if scope["type"] == "http" and self._is_private(scope["path"]):
            await send({"type": "http.response.start", "status": 403, "headers": []})
            await send({"type": "http.response.body", "body": b"not a recording"})
            return
        await self.app(scope, receive, with_policy)

    def _is_private(self, path: str) -> bool:
        _, asked, file = path.partition("file=")
        if not asked or self.folder is None or not Path(file).resolve().is_relative_to(self.folder):
            return False
        return Path(file).suffix.lower() not in SUFFIXES


def launch(blocks: Any, folder: Path | None = None, **options: Any) -> None:
    """Serve the page on localhost until Ctrl-C; `options` are those of gradio's `launch`."""
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    hosts = Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"])
    try:
        _, address, _ = blocks.queue(default_concurrency_limit=1).launch(
            server_name="127.0.0.1", share=False, show_api=False, max_file_size=MAX_UPLOAD, enable_monitoring=False,
            allowed_paths=[str(folder.absolute())] if folder else None, quiet=True, prevent_thread_lock=True,
            app_kwargs={"middleware": [hosts, Middleware(Guard, folder=folder)]}, **options,
        )  # fmt: skip
    except OSError:  # gradio's own message names its settings, not ours
        port = options.get("server_port")
        raise UsageError(f"--port {port}" if port else "ports from 7860 on", "in use", "give another --port") from None
    print(f"The page is at {address}: open it in a browser. Ctrl-C ends it.", flush=True)
    blocks.block_thread()


def url(path: str | Path) -> str:
    """Where gradio serves a file that it may serve."""
    return f"gradio_api/file={quote(str(Path(path).absolute()))}"


def asset(name: str) -> str:
    """The text of a file beside this one."""
    return files("mert.cli.page").joinpath(name).read_text(encoding="utf-8")
