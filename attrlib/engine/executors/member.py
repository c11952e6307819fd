"""What a worker does: load the models and data of a run, execute units, and send results."""

import time
import traceback
from collections import deque
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any
from typing import Protocol as Interface

from attrlib.engine.evaluations import Evaluation
from attrlib.engine.executors.messages import (
    Ask,
    Beat,
    Died,
    Do,
    Failed,
    Forget,
    Load,
    Message,
    Ready,
    Refused,
    Reply,
    Step,
)
from attrlib.engine.executors.remote_cache import RemoteCache
from attrlib.engine.executors.worker_spec import is_same_item, load_worker
from attrlib.engine.items import EvalItem
from attrlib.engine.loader import Loader
from attrlib.engine.work import PredictUnit, Worker, WorkUnit
from attrlib.errors import AttrlibError, Cancelled, ImageError, reason_of
from attrlib.specs import digest

BEAT = 0.2
"""Seconds between two messages on what is being computed."""
DIFFERENCES = 3
"""Maximum number of differing files that a message names."""


class Connection(Interface):
    """A worker's connection to the driver."""

    def send(self, message: Message) -> None:
        """Send a message; block while the driver is busy."""

    def receive(self, wait: bool) -> Message | None:
        """Return the next message; None if there is none and `wait` is false."""

    def content(self, value: Any) -> bytes:
        """Return the content of a file from the driver's answer."""


class Differs(AttrlibError):
    """The files or the code of this worker are not those of the run."""


class Member:
    """A worker that executes what the driver sends.

    Args:
        connection: The connection to the driver.
    """

    def __init__(self, connection: Connection):
        self._connection = connection
        self._pending: deque[Message] = deque()
        self._questions = 0
        self._last_beat = 0.0
        self._checked: set[Evaluation] = set()
        self._loading = ExitStack()
        self._loader: tuple[object, Loader] | None = None
        self._worker: Worker | None = None

    def run(self) -> None:
        """Execute messages until an unexpected error, which is sent to the driver before it is raised."""
        try:
            while True:
                message = self._pending.popleft() if self._pending else self._connection.receive(wait=True)
                if isinstance(message, Load):
                    self._load(message)
                elif isinstance(message, Do):
                    self._do(message)
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            self._connection.send(
                Died(f"{type(error).__name__}: {reason_of(error)} ({where.name}, line {where.lineno} of {where.filename})")
            )
            raise

    def _load(self, message: Load) -> None:
        self._loading.close()
        self._loader, self._worker, self._checked = None, None, set()
        spec = message.spec
        try:
            self._cache = RemoteCache(spec.dtype, self._ask, self._connection.send)
            self._worker = load_worker(spec, message.device, self._cache, self._heartbeat, self._fetch)
        except Cancelled:
            return
        except AttrlibError as error:
            self._connection.send(Refused(str(error)))
        else:
            self._connection.send(Ready())

    def _do(self, message: Do) -> None:
        if self._worker is None:
            return
        try:
            self._check(message.unit, self._worker)
            loader = self._loader_of(message.unit, self._worker)
            self._expect(loader, [message])
            self._expect(loader, self._pending)
            for result in self._worker.execute(message.serial, message.unit, loader):
                self._connection.send(Step(result))
        except Cancelled:
            self._loading.close()
            self._loader = None
        except Differs as error:
            self._worker = None
            self._connection.send(Refused(str(error)))
        except AttrlibError as error:
            self._connection.send(Failed(error.with_traceback(None)))
        finally:
            self._cache.clear()

    def _check(self, unit: WorkUnit, worker: Worker) -> None:
        """Check that the files and the code are those of the run. Raises `Differs` if they are not."""
        different = list(filter(None, (self._difference(item, worker) for item in unit.items)))
        if different:
            more = f" and {len(different) - DIFFERENCES} more" if len(different) > DIFFERENCES else ""
            raise Differs(
                f"its data differ from those of the run: {', '.join(different[:DIFFERENCES])}{more}; give all workers the same files"
            )
        if isinstance(unit, PredictUnit):
            return
        for each, _ in unit.missing:
            if each in self._checked:
                continue
            try:
                fields = worker.key_fields(each)
            except AttrlibError as error:
                raise Differs(f"it cannot compute {each}: {error}") from None
            if digest(fields) != each.key:
                names = [name for name in each.key_fields if fields.get(name) != each.key_fields[name]]
                raise Differs(
                    f"{each} differs in {', '.join(names)} from that of the run; install the same code and the same custom methods"
                )
            self._checked.add(each)

    @staticmethod
    def _difference(item: EvalItem, worker: Worker) -> str:
        """Return the name of an item whose files differ or cannot be read, else an empty text."""
        try:
            return "" if is_same_item(worker.data, item.id, item.images) else worker.data.item_name(item.images[0])
        except ImageError as error:
            return str(error)

    def _loader_of(self, unit: WorkUnit, worker: Worker) -> Loader:
        """Return a loader for a unit, the same for all units that need the same."""
        kind: object = (
            unit.model if isinstance(unit, PredictUnit) else frozenset(n for each, _ in unit.missing for n in each.protocol.needs)
        )
        if self._loader is None or self._loader[0] != kind:
            self._loading.close()
            loader = worker.loader([unit])
            self._loading.enter_context(loader.prefetch([]))
            self._loader = kind, loader
        return self._loader[1]

    @staticmethod
    def _expect(loader: Loader, messages: Iterable[Message]) -> None:
        for message in messages:
            if isinstance(message, Do):
                loader.expect(message.unit.items)

    def _heartbeat(self, doing: str) -> None:
        """Send what is being computed, and begin to load the images of units that have arrived; raise `Cancelled` to drop the unit."""
        while (message := self._connection.receive(wait=False)) is not None:
            self._take(message)
        if time.monotonic() - self._last_beat > BEAT:
            self._last_beat = time.monotonic()
            self._connection.send(Beat(doing))

    def _take(self, message: Message) -> None:
        """Keep a message that arrives during a unit for later."""
        if isinstance(message, Forget):
            self._pending = deque(each for each in self._pending if isinstance(each, Load))
            raise Cancelled("cancelled")
        if not isinstance(message, Reply):
            self._pending.append(message)
            if self._loader is not None:
                self._expect(self._loader[1], [message])

    def _ask(self, kind: str, *arguments: Any) -> Any:
        self._questions += 1
        self._connection.send(Ask(self._questions, kind, arguments))
        while True:
            message = self._connection.receive(wait=True)
            if isinstance(message, Reply) and message.number == self._questions:
                return message.value
            if message is not None:
                self._take(message)

    def _fetch(self, path: str) -> bytes:
        return self._connection.content(self._ask("file", path))
