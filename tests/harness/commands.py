"""The command `mert` in tests: in this process, in a fork, or in a process of its own."""

from __future__ import annotations

import io
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from harness.forks import FORKS
from mert.cli import main as cli

SMALL_FILE_BYTES = 12_000  # of features of less than 2 s


class Run(NamedTuple):
    """A command that has ended: exit code, standard output and standard error."""

    code: int
    out: str
    err: str


def run_mert(*words: object) -> Run:
    """Run `mert WORDS` in this process: importing torch in a new one takes long, and is rarely the point."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["mert", *map(str, words)])
        try:
            cli.main()
            code: Any = 0
        except SystemExit as end:
            code = end.code
    return Run(int(code or 0), out.getvalue(), err.getvalue())


def mert_command(*words: object) -> list[str]:
    """The words that start `mert WORDS` as a process of its own."""
    return [sys.executable, "-m", "mert.cli", *map(str, words)]


class Started:
    """`mert` as a process that can be signalled: a fork where torch needs no importing again, or a new interpreter."""

    def __init__(self, folder: Path, words: Sequence[object], fork: bool, limit: bool = False) -> None:
        name = os.urandom(4).hex()
        self.printed = [folder / f"{name}.{stream}" for stream in ("out", "err")]
        for path in self.printed:
            path.touch()
        self._forked: Any = None
        self._spawned: Any = None
        if fork:
            self._forked = FORKS.Process(target=_forked, args=(list(map(str, words)), *map(str, self.printed), limit))
            self._forked.start()
        else:
            with open(self.printed[0], "wb") as out, open(self.printed[1], "wb") as err:
                self._spawned = subprocess.Popen(mert_command(*words), stdout=out, stderr=err)

    @property
    def pid(self) -> int:
        return int((self._forked or self._spawned).pid)

    def running(self) -> bool:
        return self._forked.exitcode is None if self._forked else self._spawned.poll() is None

    def signal(self, number: signal.Signals) -> None:
        if self.running():
            os.kill(self.pid, number)

    def end(self) -> Run:
        deadline = time.monotonic() + 120
        while self.running():
            assert time.monotonic() < deadline, "the command hangs"
            time.sleep(0.005)
        code = self._forked.exitcode if self._forked else self._spawned.returncode
        return Run(code, *(path.read_text(encoding="utf-8") for path in self.printed))


def _forked(words: list[str], out: str, err: str, limit: bool) -> None:
    """Run `mert` with its output in files; with `limit`, as on a disk that takes no file over 12,000 bytes."""
    for stream, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY), stream)
    if limit:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (SMALL_FILE_BYTES, SMALL_FILE_BYTES))
    sys.argv = ["mert", *words]
    cli.main()
