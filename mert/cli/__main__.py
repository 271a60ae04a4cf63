"""`python -m mert.cli`: the command `mert`."""

from mert.cli.main import main

main()
