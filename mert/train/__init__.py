"""Pretraining: the only part of mert that may import teachers."""
