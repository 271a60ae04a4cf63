"""The command `mert`. Each sub-command imports what it needs when it runs, so that help is instant."""

import codecs
import io
import logging
import platform
import sys
import traceback
import warnings
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from typing import Annotated, Any, NoReturn

import rich
import typer
from typer.core import TyperGroup

from mert.cli import models
from mert.cli.app import app as page
from mert.cli.describe import describe
from mert.cli.embed import embed
from mert.cli.label import label
from mert.cli.plot import app as plot
from mert.cli.prepare import prepare
from mert.cli.similar import similar
from mert.cli.teachers import fit_teacher, tokenize
from mert.cli.terminal import plugins, printable, settings
from mert.cli.train import continue_pretrain, pretrain
from mert.errors import MertError, UsageError, explained, hidden_package

TRAINING = ["pretrain"], ["continue-pretrain"], ["prepare"], ["fit-teacher"], ["tokenize"]
REPORT = "this is a bug: please report this with the command and your versions (mert --version)"


class Commands(TyperGroup):
    """The commands, whose errors about options go without the name of Python's exception."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            error.message = error.message.removeprefix("Value error, ")  # pydantic's, in some versions of typer
            raise


app = typer.Typer(
    name="mert", cls=Commands, no_args_is_help=True, pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Music representations of MERT models: embed recordings, find, check and publish models.",
)  # fmt: skip
commands: list[Callable[..., None]] = [
    embed, describe, similar, page, label, prepare, pretrain, continue_pretrain, fit_teacher, tokenize,
    models.models, models.info, models.verify, models.convert, models.export, models.push,
]  # fmt: skip
for command in commands:
    app.command()(command)
app.add_typer(plot, name="plot")
for name, group in plugins("mert.commands", "mert"):
    app.add_typer(group, name=name)


def print_versions(wanted: bool) -> None:
    if wanted:
        found = ", ".join(f"{name} {version(name)}" for name in ("torch", "onnxruntime") if find_spec(name))
        typer.echo(f"mert-hub {version('mert-hub')}, {found or 'no torch'}, Python {platform.python_version()}")
        raise typer.Exit


@app.callback()
def options(
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only results and errors.")] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Say what is done, and show the traceback of an error.")
    ] = False,
    versions: Annotated[
        bool, typer.Option("--version", callback=print_versions, is_eager=True, help="Print versions, and exit.")
    ] = False,
) -> None:
    """Options of `mert` itself, given before the command."""
    settings.update(quiet=quiet, verbose=verbose)
    if quiet or verbose:
        logging.getLogger("mert").setLevel(logging.ERROR if quiet else logging.INFO)
        rich.reconfigure(quiet=quiet)
    if verbose:
        logging.basicConfig(format="%(name)s: %(message)s")


def main() -> None:
    """Run `mert`. Exit code 2 is wrong usage, 1 any other error: one line on stderr, or the traceback of a bug."""
    show_any_name()
    for known in ("torch.distributed is disabled", "TypedStorage is deprecated"):  # neither concerns the user
        warnings.filterwarnings("ignore", known)
    try:
        app()
    except ImportError as error:
        missing = hidden_package()
        if isinstance(error, ModuleNotFoundError):
            missing = missing or explained(error, prefer="train" if sys.argv[1:2] in TRAINING else "probe")
        if missing is None:
            raise_as_bug()
        typer.echo(f"error: {missing}", err=True)
        sys.exit(1)
    except (MertError, OSError) as error:
        if settings["verbose"]:
            traceback.print_exc()
        text = str(error)
        if isinstance(error, OSError) and error.filename:
            text = f"{error.filename}: {(error.strerror or text).lower()}; check the path, permissions and free space"
        typer.echo(f"error: {printable(text)}", err=True)
        sys.exit(2 if isinstance(error, UsageError) else 1)
    except SystemExit as end:
        if end.code == 130:  # typer's exit code for Ctrl-C
            again = "with --skip-existing" if sys.argv[1:2] == ["embed"] else "again"
            typer.echo(f"stopped; run the same command {again} to go on", err=True)
        raise
    except Exception:
        raise_as_bug()


def show_any_name() -> None:
    """Let a name that the terminal or a pipe cannot show be escaped, where it would end a command."""
    stream = sys.stdout
    if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
        is_utf8 = codecs.lookup(stream.encoding).name == "utf-8"
        stream.reconfigure(errors="surrogateescape" if is_utf8 else "backslashreplace")


def raise_as_bug() -> NoReturn:
    """Print the traceback of the current error and a line that asks for a report; exit code 1."""
    traceback.print_exc()
    typer.echo(f"error: {REPORT}", err=True)
    sys.exit(1)
