"""Beat tracking: a head on single frames, and two ways from its activation to beats."""
