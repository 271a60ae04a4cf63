"""Networks as they are trained: configuration, front end, transformer."""
