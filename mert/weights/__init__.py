"""Weights in files: formats and safe readers, the registry of models, the hub, cards and exports; bundled models."""
