"""`python -m mert`: the command `mert`."""

from mert.cli.main import main

main()
