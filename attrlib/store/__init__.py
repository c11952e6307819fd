"""On-disk store of scores, attribution maps and runs, so that nothing is computed twice."""

from attrlib.store.files import rounded
from attrlib.store.maps import Verified
from attrlib.store.opening import open_store, parse_bytes
from attrlib.store.records import Detail, Record
from attrlib.store.runs import Run
from attrlib.store.store import Sizes, Store
from attrlib.store.tables import SCHEMA

__all__ = ["SCHEMA", "Detail", "Record", "Run", "Sizes", "Store", "Verified", "open_store", "parse_bytes", "rounded"]
