"""Tests of embeddings without labels: robustness to changes of the sound, and triplets of segments."""
