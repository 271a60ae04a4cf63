"""The eight corpora of the benchmark as synthetic music, in their real layouts and annotation formats."""
