"""Helpers for stores that failed to write."""

import time

from attrlib.store import Store


def wait_out(store: Store) -> None:
    """Wait until the store retries writing after a failed write."""
    for database in (store._database, store._maps._index):
        time.sleep(max(0.0, database._again - time.monotonic()))
