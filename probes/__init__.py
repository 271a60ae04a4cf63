"""Frozen features to small heads."""
