"""Pretraining, label stores and corpora: with `mert.cli`, the only parts of mert that import teachers."""
