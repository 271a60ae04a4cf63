"""The page itself: what stands where, and what happens when a sound is dropped or recorded."""

from __future__ import annotations

from html import escape
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote

from mert.cli.page.hearing import Heard, code, downloads, hear, nearest, track
from mert.cli.page.pictures import player
from mert.collection.index import Index, Match
from mert.describe.describer import Describer
from mert.describe.description import Description, lines
from mert.errors import MertError, need

MAX_UPLOAD = "200mb"
KEPT_S = 3600  # after which gradio removes what was uploaded
FONTS = ("system-ui", "sans-serif")  # of the system: nothing is fetched
INTRODUCTION = "Drop a sound, or record one. It stays on this machine."


def page(m: Describer, folder: Path | None = None, index: Index | None = None) -> Any:
    """The page as gradio Blocks, to be launched; MertError if the extra [app] is not installed.

    With an index of a folder it also shows the nearest recordings there.
    """
    gr = need("gradio", "app", "mert app")
    home = TemporaryDirectory(prefix="mert-page-")  # gradio copies what it offers; this goes with the process
    theme = gr.themes.Default(font=list(FONTS), font_mono=["ui-monospace", "monospace"])
    script = f"<script>{asset('page.js')}</script>"
    with gr.Blocks(
        title="MERT hub", theme=theme, css=asset("page.css"), head=script, analytics_enabled=False,
        delete_cache=(KEPT_S, KEPT_S),
    ) as blocks:  # fmt: skip
        gr.Markdown(f"## {m.info.name}\n{INTRODUCTION}")
        heard = gr.State()
        with gr.Row():
            with gr.Column(scale=1):
                sound = gr.Audio(sources=["upload", "microphone"], type="filepath", label="sound", elem_id="sound")
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

        def on_sound(path: str | None, layer: int) -> tuple[Any, ...]:
            if path is None:
                return None, "", [], "", "", ""
            try:
                new = hear(m, Path(path))
                files = downloads(m, new, layer, Path(home.name))
                matches = nearest_html(folder, nearest(m, index, new)) if folder and index else ""
            except MertError as error:
                raise gr.Error(str(error).replace(path, Path(path).name)) from None
            name, text = Path(path).name, described_html(new.description)
            return new, text, files, track(new, url(path), layer), matches, code(m, name, layer)

        def on_layer(new: Heard | None, layer: int) -> tuple[Any, ...]:
            if new is None:
                return [], "", ""
            return (
                downloads(m, new, layer, Path(home.name)),
                track(new, url(str(new.path)), layer),
                code(m, new.path.name, layer),
            )

        sound.change(on_sound, [sound, layer], [heard, described, fetched, shown, near, lines_of_code])
        layer.release(on_layer, [heard, layer], [fetched, shown, lines_of_code])
    return blocks


def described_html(description: Description) -> str:
    """A description as a table; what sections say is drawn over time."""
    whole = {name: value for name, value in description.as_dict().items() if name != "sections"}
    rows = (line.split(maxsplit=1) for line in lines(whole))
    cells = "".join(f"<tr><th>{escape(name)}</th><td>{escape(text)}</td></tr>" for name, text in rows)
    return f'<table class="mert-description">{cells}</table>'


def nearest_html(folder: Path, matches: list[Match]) -> str:
    """The nearest recordings with their similarity, each with a player."""
    rows = (
        f'<div class="mert-near"><span>{match.similarity:.3f} {escape(match.name)}</span>'
        f"{player(url(str(folder / match.name)), 1.0)}</div>"
        for match in matches
    )
    return f"<h3>most like it in {escape(folder.name)}</h3>{''.join(rows)}"


class NoOtherMachines:
    """Middleware whose header forbids the browser to ask any other machine: gradio's page names a script elsewhere."""

    POLICY = b"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:"

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = [*message.get("headers", ()), (b"content-security-policy", self.POLICY)]
                message = message | {"headers": headers}
            await send(message)

        await self.app(scope, receive, with_policy)


def launch(blocks: Any, folder: Path | None = None, **options: Any) -> None:
    """Serve the page on localhost until Ctrl-C; `options` are those of gradio's `launch`."""
    from starlette.middleware import Middleware

    blocks.queue(default_concurrency_limit=1).launch(
        server_name="127.0.0.1", share=False, show_api=False, max_file_size=MAX_UPLOAD, enable_monitoring=False,
        allowed_paths=[str(folder.absolute())] if folder else None,
        app_kwargs={"middleware": [Middleware(NoOtherMachines)]}, **options,
    )  # fmt: skip


def url(path: str) -> str:
    """Where gradio serves a file that it may serve."""
    return f"gradio_api/file={quote(str(Path(path).absolute()))}"


def asset(name: str) -> str:
    """The text of a file beside this one."""
    return files("mert.cli.page").joinpath(name).read_text(encoding="utf-8")
