"""Encoders in the form that other libraries ask for: HEAR's functions, a module of sentence-transformers, mteb."""
