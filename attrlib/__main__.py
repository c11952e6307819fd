"""Run the command line interface: `python -m attrlib`."""

from attrlib.cli import main

main()
