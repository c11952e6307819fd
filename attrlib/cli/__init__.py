"""The command line interface: `attrlib COMMAND`, or `python -m attrlib COMMAND`."""

from attrlib.cli.app import app, main

__all__ = ["app", "main"]
