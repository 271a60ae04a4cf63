"""Recordings: find, decode, check, mix to mono and resample, block by block."""
