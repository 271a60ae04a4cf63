"""Doctests of modules that cannot be imported without fairseq2 are collected only where it is."""

from importlib.util import find_spec

NEEDS_FAIRSEQ2 = ["family.py", "recipe.py", "unit.py"]
collect_ignore = [] if find_spec("fairseq2") else NEEDS_FAIRSEQ2
