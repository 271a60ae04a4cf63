"""The command `mert`: each sub-command imports what it needs when it runs, so that help is instant."""

from __future__ import annotations

import json
import sys
import warnings
from enum import StrEnum
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated

import typer

from mert.embed_cli import embed
from mert.errors import UsageError
from mert.plot_cli import app as plot
from mert.similar_cli import similar
from mert.train.train_cli import continue_pretrain, fit_teacher, pretrain, tokenize

app = typer.Typer(
    name="mert",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Music representations of MERT models: embed recordings, find, check and publish models.",
)
app.command()(embed)
app.command()(similar)
app.command()(pretrain)
app.command("continue-pretrain")(continue_pretrain)
app.command("fit-teacher")(fit_teacher)
app.command()(tokenize)
app.add_typer(plot, name="plot")
for group in entry_points(group="mert.commands"):  # what stands on mert, found by name
    app.add_typer(group.load(), name=group.name)

Name = Annotated[str, typer.Argument(help="A registered name, org/name on the hub, or a folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class Format(StrEnum):
    hubert = "hubert"
    safetensors = "safetensors"
    fairseq2 = "fairseq2"
    onnx = "onnx"


@app.command()
def models(pattern: Annotated[str, typer.Argument(help='Such as "*95m*".')] = "*", as_json: AsJson = False) -> None:
    """List the models known by name."""
    from dataclasses import asdict

    from rich.console import Console
    from rich.table import Column, Table

    from mert.registry import info, list_models

    found = [info(name) for name in list_models(pattern)]
    if as_json:
        typer.echo(json.dumps([asdict(model) for model in found], indent=2))
        return
    facts = ("size", "rate", "frames", "layers", "width", "window", "licence")
    table = Table(Column("name", no_wrap=True), *facts, box=None)
    for m in found:
        table.add_row(
            m.name, f"{m.n_params / 1e6:.0f} M", f"{m.sample_rate / 1000:g} kHz", f"{m.frame_rate:g} Hz",
            str(m.n_layers), str(m.dim), f"{m.window_s:g} s", m.licence,
        )  # fmt: skip
    Console().print(table)


@app.command()
def info(name: Name, as_json: AsJson = False) -> None:
    """Show what is known of a registered model, or of a folder."""
    from dataclasses import asdict

    from mert.registry import info as look_up

    if Path(name).exists():
        from mert.hub import load

        facts = asdict(load(name, device="cpu").info)
    else:
        facts = asdict(look_up(name))
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    for key, value in facts.items():
        typer.echo(f"{key:18} {'not on record' if value is None else value}")


@app.command()
def verify(name: Name) -> None:
    """Check a model: checksum, every tensor, no NaN, and the golden hidden states."""
    from mert.hub import folder_of
    from mert.publish import verify as check

    typer.echo(str(check(folder_of(name))))


@app.command()
def convert(
    source: Annotated[str, typer.Argument(help="A published folder, a fairseq .pt file, or a name on the hub.")],
    out: Annotated[Path, typer.Argument(help="Folder for the model in our format.")],
) -> None:
    """Read any MERT checkpoint and write it as safetensors with card and golden states."""
    from mert.hub import load
    from mert.publish import save_pretrained
    from mert.publish import verify as check

    save_pretrained(load(source, device="cpu"), out)
    typer.echo(f"{out}: {check(out)}")


@app.command()
def export(
    name: Name,
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
    to: Annotated[
        Format, typer.Option(help="hubert loads in plain transformers; fairseq2 adds an asset card; onnx: one file.")
    ] = Format.hubert,
    half: Annotated[bool, typer.Option("--half", help="Weights in fp16, in our format.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Run the ONNX file, and compare its states.")] = False,
) -> None:
    """Write a model for other software, or a finished run as a model (always in our format then)."""
    from mert.asset_card import write_asset_card
    from mert.checkpoints import export_hubert
    from mert.hub import load
    from mert.publish import save_pretrained

    if check and to is not Format.onnx:
        raise UsageError("--check", "goes with --to onnx", "check other formats with `mert verify`")
    if to is Format.onnx:
        typer.echo(as_onnx(name, out, check))
        return
    if (Path(name) / "recipe.yaml").exists() and not (Path(name) / "config.json").exists():
        from mert.train.export import export_run

        export_run(Path(name), out, half)
    elif to is Format.hubert and not half:
        export_hubert(load(name, device="cpu").model, out)
    else:
        save_pretrained(load(name, device="cpu"), out, half=half)
    if to is Format.fairseq2:
        write_asset_card(out, out.resolve().name)
    typer.echo(f"{out}: {', '.join(sorted(path.name for path in out.iterdir()))}")


def as_onnx(name: str, out: Path, check: bool) -> str:
    """Write `out`/model.onnx, and say how near it is where that is to be checked."""
    from mert.hub import load
    from mert.onnx_export import check_onnx, export_onnx

    model = load(name, device="cpu").model
    path = export_onnx(model, out / "model.onnx")
    if not check:
        return f"{path}: wave [batch, samples] -> states [layer, batch, frame, width]"
    return f"{path}: largest difference {check_onnx(model, path):.1e} of max(1, rms of the layer)"


@app.command()
def push(
    folder: Annotated[Path, typer.Argument(help="What save_pretrained or convert wrote.")],
    repo: Annotated[str, typer.Argument(help="org/name on the hub.")],
    private: Annotated[bool, typer.Option("--private", help="Create a private repository.")] = False,
) -> None:
    """Publish a verified model folder on the hub."""
    from mert.hub import push_to_hub

    typer.echo(push_to_hub(folder, repo, private=private))


def main() -> None:
    """Run `mert`; errors of ours are one line on stderr, exit code 2 for wrong usage and 1 otherwise."""
    from mert.embed_cli import printable
    from mert.errors import MertError

    for known in ("torch.distributed is disabled", "TypedStorage is deprecated"):  # one process is all that was asked
        warnings.filterwarnings("ignore", known)
    try:
        app()
    except (UsageError, ValueError) as error:
        typer.echo(f"error: {printable(str(error))}", err=True)
        sys.exit(2)
    except (MertError, OSError) as error:
        typer.echo(f"error: {printable(str(error))}", err=True)
        sys.exit(1)
    except SystemExit as end:
        if end.code == 130:  # what typer makes of Ctrl-C
            again = "with --skip-existing" if sys.argv[1:2] == ["embed"] else "again"
            typer.echo(f"stopped; run the same command {again} to go on", err=True)
        raise


if __name__ == "__main__":
    main()
