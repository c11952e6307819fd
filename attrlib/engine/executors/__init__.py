"""Executors, which run the units of work; the rest of the engine does not depend on how they do so."""

from attrlib.engine.executors.base import Executor
from attrlib.engine.executors.local import LocalExecutor

__all__ = ["Executor", "LocalExecutor"]
