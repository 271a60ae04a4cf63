"""Datasets as they lie on the disk after download: annotations and places; no audio is decoded."""
