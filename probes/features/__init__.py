"""Features as probes read them: clips, windows, a matrix on disk, files of `mert embed`, standardisation."""
