"""The 14 tasks: how each is read, windowed, fitted, scored and run."""
