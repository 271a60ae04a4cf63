"""What an embedding keeps when the sound changes, and whether recordings stay together."""
