"""Run the command line: `python -m attrlib`."""

from attrlib.cli import main

main()
