"""Stores that could not write for a while."""

import time

from attrlib.store import Store


def wait_out(store: Store) -> None:
    """Wait until the store tries again to write after it has failed to."""
    for database in (store._database, store._maps._index):
        time.sleep(max(0.0, database._again - time.monotonic()))
