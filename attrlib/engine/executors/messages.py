"""Messages between the driver of a run and its workers. They carry specs and numbers, never code."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from attrlib.engine.executors.worker_spec import WorkerSpec
from attrlib.engine.work import UnitResult, WorkUnit
from attrlib.errors import AttrlibError
from attrlib.store import Record

# From the driver


@dataclass(frozen=True)
class Load:
    """Load the models and the data of a run onto a device; answered by `Ready` or `Refused`."""

    spec: WorkerSpec
    device: str


@dataclass(frozen=True)
class Do:
    """Execute a unit; `serial` is repeated in its results. Units are executed in the order of their messages."""

    serial: int
    unit: WorkUnit


@dataclass(frozen=True)
class Forget:
    """Drop all units, including the one in progress."""


@dataclass(frozen=True)
class Reply:
    """The answer to the question of this number."""

    number: int
    value: Any


# From a worker


@dataclass(frozen=True)
class Ready:
    """Models and data are loaded."""


@dataclass(frozen=True)
class Refused:
    """The worker cannot compute this run: its models, its data or its versions differ, or it lacks memory."""

    reason: str


@dataclass(frozen=True)
class Ask:
    """Read records, values or maps from the run's store, or a file of the driver.

    Attributes:
        number: Number of the question, repeated in its `Reply`.
        kind: `records`, `values`, `maps` or `file`.
        arguments: Key and items, keys, or a path.
    """

    number: int
    kind: str
    arguments: tuple[Any, ...]


@dataclass(frozen=True)
class AddRecords:
    """Add records to the run's store."""

    key: str
    fields: Mapping[str, object]
    records: Mapping[str, Record]


@dataclass(frozen=True)
class AddMaps:
    """Add maps (1,h,w) to the run's store."""

    maps: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Step:
    """A result of a unit, after the messages with its records and maps."""

    result: UnitResult


@dataclass(frozen=True)
class Beat:
    """What is being computed."""

    doing: str


@dataclass(frozen=True)
class Failed:
    """A unit ended with an error that a user can cause; the run cannot go on."""

    error: AttrlibError


@dataclass(frozen=True)
class Died:
    """The worker is gone. Its crew reports this after all other messages of the worker.

    Attributes:
        reason: Why, as far as it is known.
        blamed: Whether the unit in progress may be the cause; it is not if a whole machine was lost.
    """

    reason: str
    blamed: bool = True


Message = Load | Do | Forget | Reply | Ready | Refused | Ask | AddRecords | AddMaps | Step | Beat | Failed | Died
Messages = Sequence[Message]
