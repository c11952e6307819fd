"""Helpers for stores after a failed write."""

import time

from attrlib.store import Store


def wait_out(store: Store) -> None:
    """Wait until the store is ready to write again after a failed write."""
    for database in (store._database, store._maps._index):
        time.sleep(max(0.0, database._again - time.monotonic()))
