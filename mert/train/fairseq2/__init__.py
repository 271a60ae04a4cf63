"""Pretraining by fairseq2's trainer, and its asset cards: optional (extra `fairseq2`), with the same losses."""
