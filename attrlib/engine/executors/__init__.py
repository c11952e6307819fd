"""How the units of a run are executed. Nothing else in the engine knows."""

from attrlib.engine.executors.base import Executor
from attrlib.engine.executors.local import LocalExecutor

__all__ = ["Executor", "LocalExecutor"]
