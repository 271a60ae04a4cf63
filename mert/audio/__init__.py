"""Recordings in: found, decoded, checked, mixed to mono and resampled, block by block."""
