"""The command `mert bench`, found by name through the entry-point group `mert.commands`.

Each sub-command imports what it needs when it runs: this module is read for `mert --help`, too.
"""

import typer

from mir_benchmarks.cli.ablate import ablate
from mir_benchmarks.cli.data import labels, prepare, recordings, synth
from mir_benchmarks.cli.invariance import COMMANDS, EXIT_CODES, measure
from mir_benchmarks.cli.results import card, report, validate
from mir_benchmarks.cli.run import ls, run

app = typer.Typer(no_args_is_help=True, help="Music to train and test on, and the benchmark of MIR tasks.")
for command in (ablate, card, ls, run, validate, report, prepare):
    app.command()(command)
for name, text in COMMANDS.items():
    app.command(name, help=f"{text}\n\n{EXIT_CODES}")(measure)
app.command()(synth)
app.command()(labels)
app.command()(recordings)
