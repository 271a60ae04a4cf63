"""The commands about models: `mert models`, `info`, `verify`, `convert`, `export` and `push`."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

import mert
from mert.cli.terminal import AsJson, Overwrite, console
from mert.errors import UsageError

Name = Annotated[str, typer.Argument(help="A registered name, org/name on the hub, or a folder.")]
Format = Literal["hubert", "safetensors", "fairseq2", "onnx"]


def models(
    pattern: Annotated[str, typer.Argument(help='Such as "*95m*".')] = "*",
    licence: Annotated[str | None, typer.Option(help='Such as "apache*".')] = None,
    max_params: Annotated[float | None, typer.Option(help="Parameters at most, such as 1e8.")] = None,
    family: Annotated[str | None, typer.Option(help="Such as mert.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the models known by name."""
    from rich.table import Column, Table

    names = mert.list_models(pattern, licence=licence, max_params=max_params, family=family)
    records = [mert.info(name) for name in names]
    if as_json:
        typer.echo(json.dumps([asdict(model) for model in records], indent=2))
        return
    facts = ("size", "rate", "frames", "layers", "width", "window", "licence")
    table = Table(Column("name", no_wrap=True), *facts, box=None)
    for m in records:
        table.add_row(
            m.name, f"{m.n_params / 1e6:.0f} M", f"{m.sample_rate / 1000:g} kHz", f"{m.frame_rate:g} Hz",
            str(m.n_layers), str(m.dim), f"{m.window_s:g} s", m.licence,
        )  # fmt: skip
    console().print(table)


def info(name: Name, as_json: AsJson = False) -> None:
    """Show the record of a registered model, or of a folder."""
    from mert.weights.registry import local_path

    record = mert.load(name, device="cpu").info if local_path(name) else mert.info(name)
    lines = (f"{key:18} {value}" for key, value in record.facts().items())
    typer.echo(json.dumps(asdict(record), indent=2) if as_json else "\n".join(lines))


def verify(name: Name) -> None:
    """Check a model: checksum, every tensor, no NaN, golden hidden states, and that its heads are whole and its own."""
    from mert.weights.hub import folder_of

    typer.echo(str(mert.verify(folder_of(name))))


def convert(
    source: Annotated[str, typer.Argument(help="A published folder, a fairseq .pt file, or a name on the hub.")],
    out: Annotated[Path, typer.Argument(help="Folder for the model in our format.")],
    overwrite: Overwrite = False,
) -> None:
    """Read any MERT checkpoint and write it as safetensors with card and golden states, its heads beside it."""
    with model_folder(source, out, overwrite):
        mert.save_pretrained(mert.load(source, device="cpu"), out)
    typer.echo(f"{out}: {mert.verify(out)}")


def export(
    name: Name,
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
    to: Annotated[
        Format,
        typer.Option(help="hubert loads in plain transformers; fairseq2 adds an asset card; onnx needs no torch."),
    ] = "hubert",
    half: Annotated[bool, typer.Option("--half", help="Weights in fp16, in our format.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Run the ONNX file, and compare its states.")] = False,
    overwrite: Overwrite = False,
) -> None:
    """Write a model for other software, or a finished run as a model (always in our format then)."""
    if check and to != "onnx":
        raise UsageError("--check", "goes with --to onnx", "check other formats with `mert verify`")
    if half and to == "onnx":
        raise UsageError("--half", "does not go with --to onnx", "leave it out: the graph runs in float32 and int8")
    with model_folder(name, out, overwrite):
        if to == "onnx":
            typer.echo(as_onnx(name, out, check))
            return
        if (Path(name) / "recipe.yaml").exists() and not (Path(name) / "config.json").exists():
            export_run(Path(name), out, half)
        elif to == "hubert" and not half:
            from mert.weights.publish import save_hubert

            save_hubert(mert.load(name, device="cpu"), out)
        else:
            mert.save_pretrained(mert.load(name, device="cpu"), out, half=half)
    if to == "fairseq2":
        from mert.train.fairseq2 import write_asset_card

        write_asset_card(out, out.resolve().name)
    typer.echo(f"{out}: {', '.join(sorted(path.name for path in out.iterdir()))}")


@contextmanager
def model_folder(source: str, folder: Path, overwrite: bool) -> Iterator[None]:
    """Write a model into a folder, in place of the one that it holds.

    UsageError unless that may be replaced, and where it is the source: its other files would be lost.
    """
    from mert.weights.networks import FILES, replacing

    if Path(source).resolve() in (folder.resolve(), *(folder.resolve() / name for name in FILES)):
        raise UsageError(folder, "holds the model that is read", "give another folder")
    if not overwrite and (there := [name for name in (*FILES, "README.md") if (folder / name).exists()]):
        raise UsageError(folder, f"holds {there[0]}", "give another folder, or --overwrite to replace what is there")
    with replacing(folder):
        yield


def export_run(run: Path, out: Path, half: bool = False) -> Path:
    """Write a run of either engine as a model; returns the folder."""
    from mert.train import run_folder
    from mert.train.fairseq2 import load_run

    return run_folder.export_run(run, out, half, load_run)


def as_onnx(name: str, out: Path, check: bool) -> str:
    """Write a folder for onnxruntime, compare its states if `check`; returns the line to print."""
    from mert.weights.networks import GRAPH
    from mert.weights.onnx_export import check_onnx, export_folder

    embedder = mert.load(name, device="cpu")
    path = export_folder(embedder, out) / GRAPH
    if not check:
        return f"{path}: wave [batch, samples] -> states [layer, batch, frame, width]"
    return f"{path}: largest difference {check_onnx(embedder.model, path):.1e} of max(1, rms of the layer)"


def push(
    folder: Annotated[Path, typer.Argument(help="A folder that save_pretrained or `mert convert` wrote.")],
    repo: Annotated[str, typer.Argument(help="org/name on the hub.")],
    private: Annotated[bool, typer.Option("--private", help="Create a private repository.")] = False,
) -> None:
    """Publish a verified model folder on the hub, its heads among the rest."""
    typer.echo(mert.push_to_hub(folder, repo, private=private))
