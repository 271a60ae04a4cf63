"""From recordings to features: windows on the frame clock, batches, the Embedder, Features and their files."""
