"""Networks as they are run: folded, cast and laid out for the machine at hand."""
