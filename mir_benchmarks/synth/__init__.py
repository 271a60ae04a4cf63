"""Synthetic music: composed from a seed, rendered with numpy alone, and labelled by what was composed."""
