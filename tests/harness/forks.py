"""Processes that start in no time: forks of a clean one that has imported everything. Importing torch takes seconds."""

from __future__ import annotations

import os
import socket
import sys
from multiprocessing import get_context

# One server serves all tests of a process, so its imports stand in one place; it leaves out what is not installed.
FORKS = get_context("forkserver")
FORKS.set_forkserver_preload([
    "matplotlib.backends.backend_agg", "matplotlib.figure", "mert.cli.embed", "mert.cli.main", "mert.cli.train",
    "mert.collection.executors", "mert.inference.fast", "mert.plots", "mert.train.corpus.opening", "mert.train.engine",
    "mert.train.start", "mert.weights.hub", "mir_benchmarks.suite.write", "mir_benchmarks.tasks.run",
    "nnAudio.features", "PIL.JpegImagePlugin", "pyarrow.dataset", "pyarrow.parquet", "pydantic.type_adapter",
    "rich._emoji_codes", "rich.progress", "scipy.sparse", "sklearn.metrics", "soundfile", "soxr",
    "teachers.random_projection", "torch._dynamo", "torch.utils.tensorboard", "typer._adapters",
])  # fmt: skip


def pretrain_together(words: list[str], processes: int) -> None:
    """`mert pretrain WORDS` in several processes at once, described to each as `torchrun` does."""
    port = free_port()
    started = [FORKS.Process(target=_pretrain, args=(words, rank, processes, port)) for rank in range(processes)]
    for process in started:
        process.start()
    for process in started:
        process.join(300)
    assert [process.exitcode for process in started] == [0] * processes


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("localhost", 0))
        return int(server.getsockname()[1])


def _pretrain(words: list[str], rank: int, processes: int, port: int) -> None:
    import torch

    from mert.cli.main import main

    torch.set_num_threads(1)
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()} if processes > 1 else {})
    sys.argv = ["mert", "pretrain", *words]
    main()
