"""The command `mert`: each sub-command imports what it needs when it runs, so that help is instant."""

from __future__ import annotations

import sys
import warnings
from importlib.metadata import entry_points

import typer

from mert.cli import models
from mert.cli.embed import embed
from mert.cli.plot import app as plot
from mert.cli.similar import similar
from mert.cli.train import continue_pretrain, fit_teacher, pretrain, tokenize
from mert.errors import UsageError

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
for command in (models.models, models.info, models.verify, models.convert, models.export, models.push):
    app.command()(command)
app.add_typer(plot, name="plot")
for group in entry_points(group="mert.commands"):  # what stands on mert, found by name
    app.add_typer(group.load(), name=group.name)


def main() -> None:
    """Run `mert`; errors of ours are one line on stderr, exit code 2 for wrong usage and 1 otherwise."""
    from mert.cli.terminal import printable
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
