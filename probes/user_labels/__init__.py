"""Heads for labels of your own: table, split, features, fit, the saved head and its predictions."""
