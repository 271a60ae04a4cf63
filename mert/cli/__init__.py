"""The command `mert`."""
