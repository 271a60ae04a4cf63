"""The page of `mert app`: drop or record a sound, and see and hear what a model makes of it."""
