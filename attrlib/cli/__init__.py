"""The command line interface: `python -m attrlib models|methods|protocols|datasets|explain|score|aggregate|montage|study|finetune|doctor|cache|licences`."""

import attrlib.cli.aggregate
import attrlib.cli.cache
import attrlib.cli.doctor
import attrlib.cli.explain
import attrlib.cli.finetune
import attrlib.cli.licences
import attrlib.cli.lists
import attrlib.cli.montage
import attrlib.cli.score
import attrlib.cli.study  # noqa: F401
from attrlib.cli.common import app, main

__all__ = ["app", "main"]
