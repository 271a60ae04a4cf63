"""Readers of the corpora as downloaded, one file per corpus: labels, splits and paths; no audio is decoded."""
