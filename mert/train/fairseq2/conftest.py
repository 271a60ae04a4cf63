"""Collect the doctests of modules that import fairseq2 only if it is installed."""

from importlib.util import find_spec

NEEDS_FAIRSEQ2 = ["family.py", "recipe.py", "unit.py"]
collect_ignore = [] if find_spec("fairseq2") else NEEDS_FAIRSEQ2
