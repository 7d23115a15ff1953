"""`python -m netc`: the command line where the `netc` script is not on PATH."""

from netc.cli import main

main()
