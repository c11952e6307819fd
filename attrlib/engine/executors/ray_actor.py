"""A worker as a Ray actor: it runs `Member` in a thread, and hands messages in and out. Importing this module needs Ray."""

import platform
import queue
import threading
import time
from typing import Any

import ray

from attrlib.engine.executors.member import Member
from attrlib.engine.executors.messages import Message

HELD = 64
"""Maximum number of messages that wait for the driver; beyond that, the worker waits."""
OPTIONS = {"max_restarts": 0, "max_task_retries": 0, "concurrency_groups": {"in": 1, "out": 1}}
"""Options of the actor. It is replaced rather than restarted. A group with one thread keeps the order of its calls."""


class Mailbox:
    """A connection within the actor: methods of the actor fill the inbox and empty the outbox."""

    def __init__(self) -> None:
        self.inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self.outbox: queue.Queue[Message] = queue.Queue(HELD)

    def send(self, message: Message) -> None:
        """Send a message; block while too many wait for the driver."""
        self.outbox.put(message)

    def receive(self, wait: bool) -> Message | None:
        """Return the next message; None if there is none and `wait` is false."""
        try:
            return self.inbox.get(block=wait)
        except queue.Empty:
            return None

    def content(self, value: Any) -> bytes:
        """Return the content of a file, which lies in Ray's object store: it reaches each node once."""
        return bytes(ray.get(value))


class Actor:
    """A worker; see `RayCrew`."""

    def __init__(self) -> None:
        self._box = Mailbox()
        threading.Thread(target=Member(self._box).run, name="attrlib-member", daemon=True).start()

    @ray.method(concurrency_group="in")
    def give(self, message: Message) -> None:
        """Take a message of the driver."""
        self._box.inbox.put(message)

    @ray.method(concurrency_group="out")
    def take(self, seconds: float) -> tuple[str, list[Message]]:
        """Return the name of this machine and the messages for the driver; wait for the first one so many seconds at most."""
        messages: list[Message] = []
        end = time.monotonic() + seconds
        while len(messages) < HELD:
            try:
                messages.append(self._box.outbox.get(timeout=0 if messages else max(0.001, end - time.monotonic())))
            except queue.Empty:
                break
        return platform.node(), messages
