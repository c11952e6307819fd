"""The main function of a worker process: messages come on standard input, and go to standard output."""

import os
import pickle
import queue
import sys
import threading
import traceback
from typing import IO, Any

from attrlib.engine.executors.member import Member
from attrlib.engine.executors.messages import Message


class PipeConnection:
    """A connection over two pipes.

    Args:
        source: Where messages of the driver are read. Its end ends this process, whatever it does: the driver is gone.
        target: Where messages to the driver are written.
    """

    def __init__(self, source: IO[bytes], target: IO[bytes]):
        self._target = target
        self._inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
        threading.Thread(target=self._read, args=(source,), name="attrlib-messages", daemon=True).start()

    def send(self, message: Message) -> None:
        """Send a message; block while the pipe is full."""
        pickle.dump(message, self._target)
        self._target.flush()

    def receive(self, wait: bool) -> Message | None:
        """Return the next message; None if there is none and `wait` is false."""
        try:
            return self._inbox.get(block=wait)
        except queue.Empty:
            return None

    def content(self, value: Any) -> bytes:
        """Return the content of a file, which is sent as it is."""
        return bytes(value)

    def _read(self, source: IO[bytes]) -> None:
        try:
            while True:
                self._inbox.put(pickle.load(source))
        except EOFError:
            os._exit(0)
        except Exception:  # noqa: BLE001  whatever it is, the driver must see it rather than wait
            traceback.print_exc()
            os._exit(1)


def main() -> None:
    """Execute what the driver sends, until it ends or closes the pipe."""
    target = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    # What models and custom methods print must not come between the messages.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    Member(PipeConnection(sys.stdin.buffer, target)).run()
