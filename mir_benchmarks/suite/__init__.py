"""The eight corpora of the benchmark, made of synthetic music: real layouts, real annotation formats, known answers."""
