"""Networks as they run: weights folded, cast and laid out for the machine at hand."""
