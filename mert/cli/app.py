"""The command `mert app`: a page on this machine on which a model describes what is dropped or recorded."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from mert.cli import terminal
from mert.errors import need


def app(
    folder: Annotated[
        Path | None, typer.Argument(help="Folder in which the nearest recordings are shown.", show_default=False)
    ] = None,
    model: terminal.Model = terminal.DEFAULT,
    revision: terminal.Revision = None,
    device: terminal.Device = "auto",
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Default: the first free one from 7860.")] = None,
    open_browser: Annotated[bool, typer.Option("--open/--no-open", help="Open it in a browser.")] = True,
) -> None:
    """Open a page: drop or record a sound, see its names, beats and self-similarity, and the most similar in FOLDER.

    It is served on localhost only, and nothing leaves the machine. Ctrl-C ends it.
    """
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    need("gradio", "app", "mert app")  # before a folder is embedded
    from mert.cli.page.layout import launch, page
    from mert.cli.similar import brought_up_to_date
    from mert.describe.describer import load

    terminal.check_device(device)
    m = load(model, revision, device)
    m.head_set()  # its error comes before the page
    index = brought_up_to_date(folder, m) if folder else None
    launch(page(m, folder, index, model), folder, server_port=port, inbrowser=open_browser)
