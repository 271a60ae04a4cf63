"""Scores of a model that is still being trained: one head per task, on the validation items of the `tiny` suite."""

import logging
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from mert.embedding.embedder import Embedder
from mert.errors import UsageError
from mert.models.mert import Mert
from mert.weights.checkpoints import digest
from mert.weights.registry import ModelInfo
from mir_benchmarks.suite.sizes import MAX_EPOCHS
from mir_benchmarks.suite.write import write_suite
from mir_benchmarks.tasks.clips import ClipTask
from mir_benchmarks.tasks.kind import Options
from mir_benchmarks.tasks.registry import TASKS, TaskSpec
from mir_benchmarks.tasks.run import KINDS, limited
from probes.encoders import MertEncoder
from probes.features.matrix import FeatureMatrix
from probes.fit import Setting

log = logging.getLogger("mert")
SIZE = "tiny"
SETTING = Setting("all", 1e-3, 0)  # a learned sum of the layers: no layer is chosen


class SuiteMonitor:
    """Scores of `tasks` on a synthetic suite, which is written into `folder` when it is first needed.

    Called with a model, it returns the validation score of one head per task, in the task's own metric: there are ten
    items or so, so it shows a trend and no more. The same weights give the same scores. UsageError for tasks that have
    no label per clip.
    """

    def __init__(self, folder: Path, tasks: Sequence[str]) -> None:
        of_clips = {name: task for name, task in TASKS.items() if KINDS[task.kind] is ClipTask}
        if unknown := [name for name in tasks if name not in of_clips]:
            reason = f"no task of clips {', '.join(unknown)}"
            raise UsageError("probe_tasks", reason, f"give some of {', '.join(of_clips)}")
        self.home, self.tasks = folder / f"suite-{SIZE}", [of_clips[name] for name in tasks]

    def __call__(self, model: Mert) -> dict[str, float]:
        write_suite(self.home, SIZE, corpora=sorted({task.corpus for task in self.tasks}))
        info = ModelInfo.of(model, "in training", licence="unknown")
        encoder = MertEncoder(Embedder(model, info, digest(model), str(next(model.parameters()).device)))
        with TemporaryDirectory() as features:
            return {task.name: self._score(task, encoder, Path(features)) for task in self.tasks}

    def _score(self, task: TaskSpec, encoder: MertEncoder, features: Path) -> float:
        options = Options(max_epochs=MAX_EPOCHS[SIZE], lrs=(SETTING.lr,), seeds=(SETTING.seed,))
        protocol = task.protocol({})
        matrix = FeatureMatrix(features / task.corpus, encoder, task.windows_under(protocol))
        dataset = limited(task.read(self.home, protocol), None)
        probe = ClipTask(task, dataset, matrix, options, protocol, log.debug)
        matrix.extract(probe.clips())
        probe.prepare()
        (fitted,) = probe.fit([SETTING])
        return float(fitted.score)
