"""What a run writes while it goes on: recipe.yaml, metrics.jsonl, TensorBoard, curves.png, a progress bar."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

import yaml
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter

from mert.errors import OutputError
from mert.files import read_rows, write_whole, writing
from mert.train.recipe import Recipe

log = logging.getLogger("mert")


class RunLog:
    """The records of one run, kept by its first process; rows of steps that are done again are dropped at resume."""

    def __init__(self, recipe: Recipe, resumed_step: int) -> None:
        self.folder = Path(recipe.out)
        with write_whole(self.folder / "recipe.yaml") as temporary:
            temporary.write_text(yaml.safe_dump(recipe.to_dict(), sort_keys=False))
        self._metrics = self.folder / "metrics.jsonl"
        kept = [row for row in read_rows(self._metrics) if row["step"] <= resumed_step]
        with write_whole(self._metrics) as temporary:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in kept))
        self._lines = open(self._metrics, "a", encoding="utf-8")  # noqa: SIM115
        with writing(self.folder / "tensorboard"):
            self._board = SummaryWriter(str(self.folder / "tensorboard"), purge_step=resumed_step + 1)
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
        self._progress = Progress(*columns)
        self._task = self._progress.add_task("starting", total=recipe.steps, completed=resumed_step)
        self._progress.start()

    def row(self, values: dict[str, Any]) -> None:
        """Record one step; OutputError where the disk refuses."""
        with writing(self._metrics):
            self._lines.write(json.dumps(values) + "\n")
            self._lines.flush()
        with writing(self.folder / "tensorboard"):
            for name, value in values.items():
                if name != "step" and isinstance(value, int | float) and math.isfinite(value):
                    self._board.add_scalar(name, value, values["step"])
        described = f"loss {values['loss']:.3f}, {values.get('seconds', 0):.2f} s a step"
        self._progress.update(self._task, completed=values["step"], description=described)

    def say(self, text: str) -> None:
        """A line above the progress bar."""
        self._progress.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def close(self) -> None:
        """Draw the curves and close everything. The rows are safe already: what a full disk refuses is a warning."""
        self._progress.stop()
        for end in (self._lines.close, self._board.close, self._draw):
            try:
                end()
            except (OSError, OutputError) as error:
                log.warning("the records in %s were not closed well: %s", self.folder, error)

    def _draw(self) -> None:
        rows = read_rows(self._metrics)
        if rows:
            from mert.plots import save_curves

            save_curves(rows, self.folder / "curves.png", title=self.folder.name)
