"""Heads for user labels: table, splits, matching with features, fit, the saved head and its predictions."""
