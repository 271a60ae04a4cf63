"""`mert` in a process that meets a fault at a chosen moment: `python faulty.py MOMENT RANK pretrain CONFIG ...`.

Moments (only the process of that rank, in its first life under torchrun):
    change:WORD:N  SIGKILL before the N-th change of a file or folder below `ckpt` whose path contains WORD
    tensor:WORD:N  SIGKILL before the N-th tensor goes into a shard whose path contains WORD
    group:STEP:N   SIGKILL before group N of update STEP
    error:STEP:N   an exception before group N of update STEP
    bytes:N        no file may grow beyond N bytes, which is what a full disk looks like
"""

from __future__ import annotations

import importlib
import os
import resource
import signal
import sys
from collections.abc import Callable
from contextlib import redirect_stderr
from io import StringIO
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm(moment: str) -> None:
    """Have this process meet its fault."""
    kind, *rest = moment.split(":")
    *words, number = [*rest[:-1], int(rest[-1])]
    {"change": at_change, "tensor": at_tensor, "group": at_group, "error": error_at, "bytes": limit}[kind](
        *words, number
    )


def at_change(word: str, number: int) -> None:
    """What is about to happen is noted in `killed` beside `ckpt`. The process watches its own file system calls."""
    seen = count(1)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        path = str(arguments[0]) if arguments else ""
        run, below, _ = path.rpartition("/ckpt/")
        if word in path and changes(event, arguments, bool(below)) and next(seen) == number:
            if below:
                Path(run, "killed").write_text(f"{event} {Path(path).name}")
            die()

    sys.addaudithook(hook)


def changes(event: str, arguments: tuple[Any, ...], below: bool) -> bool:
    """Whether a call changes anything below `ckpt`."""
    if event == "open":
        return below and isinstance(arguments[1], str) and bool(set(arguments[1]) & set("wa"))
    if event in ("os.remove", "os.rmdir") and arguments[1] != -1:  # rmtree works from folder to folder
        return True
    wanted = {"os.mkdir": False, "os.rename": True, "os.remove": True, "os.rmdir": True, "shutil.rmtree": True}
    return below and wanted.get(event) == Path(arguments[0]).exists()


def at_tensor(word: str, number: int) -> None:
    from torch.distributed.checkpoint import filesystem

    honest, seen = filesystem._write_item, count(1)  # type: ignore[attr-defined]

    def write_item(transforms: Any, stream: Any, *others: Any) -> Any:
        if word in str(stream.name) and next(seen) == number:
            die()
        return honest(transforms, stream, *others)

    filesystem._write_item = write_item  # type: ignore[attr-defined]


def at_group(step: str, number: int, fault: Callable[[], None] = die) -> None:
    from mert.train.batches import Batches

    honest = Batches.next_group

    def next_group(self: Batches, at: int, wanted: int) -> Any:
        if (at, wanted) == (int(step), number):
            fault()
        return honest(self, at, wanted)

    Batches.next_group = next_group  # type: ignore[method-assign]


def error_at(step: str, number: int) -> None:
    from mert.errors import MertError

    def fault() -> None:
        raise MertError("the GPU", "ran out of memory", "lower clips_at_once")

    at_group(step, number, fault)


def limit(number: int) -> None:
    importlib.import_module("mert.train.engine")  # torch writes a file when it is imported
    resource.setrlimit(resource.RLIMIT_FSIZE, (number, number))


def train(config: str, moment: str = "", until: int | None = None) -> None:
    """What `mert pretrain` does, in a forked process and up to a step."""
    from mert.cli.train import load_teachers
    from mert.train.corpus.opening import open_corpus
    from mert.train.engine import Engine
    from mert.train.parallel import World
    from mert.train.recipe import read_recipe

    torch.set_num_threads(1)
    if moment:
        arm(moment)
    recipe = read_recipe(config)
    corpus = open_corpus(recipe.data, recipe.model.sample_rate, recipe.clip_samples, {})
    Engine(recipe, corpus, load_teachers(recipe.teachers), World.join()).run(until=until)


def command(arguments: list[str], moment: str, answer: Connection) -> None:
    """`mert ARGUMENTS` in a forked process; answers with its exit code and what it says on stderr."""
    from mert.cli.main import main

    torch.set_num_threads(1)
    if moment:
        arm(moment)
    sys.argv = ["mert", *arguments]
    code: Any = 0
    with redirect_stderr(StringIO()) as said:
        try:
            main()
        except SystemExit as end:
            code = end.code
    answer.send((code, said.getvalue()))


if __name__ == "__main__":
    from mert.cli.main import main

    chosen, rank, *sys.argv[1:] = sys.argv[1:]
    first_life = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"
    if first_life and os.environ.get("RANK", "0") == rank:
        arm(chosen)
    main()
