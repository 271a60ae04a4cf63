"""What the commands of `mert bench` share: options, checks of their values, and the record of a call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import typer

from mert.errors import UsageError

if TYPE_CHECKING:
    from mir_benchmarks.tasks.registry import TaskSpec

Context = Literal["window", "training"]
Rules = Literal["hub", "marble"]
Suite = Literal["tiny", "small", "sampled"]

MODELS = "Name, folder, log-mel, mfcc, cqt-chroma, random-nano"


def words_of(call: typer.Context) -> list[str]:
    """The words of the command that runs, as results record them: options that were given, with portable paths."""
    from probes.results import portable

    words = ["mert", "bench", str(call.info_name)]
    for parameter in call.command.params:
        source = call.get_parameter_source(str(parameter.name))
        if source is None or source.name.startswith("DEFAULT"):
            continue
        given: Any = call.params[str(parameter.name)]
        option = parameter.opts[-1:] if parameter.param_type_name == "option" else []
        for value in given if isinstance(given, list | tuple) else [given]:
            words += option if value is True else [*option, portable(str(value))]
    return words


def tasks_of(names: str) -> list[TaskSpec]:
    """Tasks by comma-separated names, "all" for the 14."""
    from mir_benchmarks.tasks.registry import TASKS

    wanted = list(TASKS) if names == "all" else names.split(",")
    if unknown := [name for name in wanted if name not in TASKS]:
        raise UsageError("-t", f"no task {unknown[0]}", f"give all, or some of {', '.join(TASKS)}")
    return [TASKS[name] for name in wanted]
