"""The command `mert bench`, and its sub-commands."""
