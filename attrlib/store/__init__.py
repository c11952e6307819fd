"""The store: results of attribution scoring on disk, computed once and never again."""

from attrlib.store.files import rounded
from attrlib.store.maps import Verified
from attrlib.store.opening import open_store, parse_bytes
from attrlib.store.records import Detail, Record
from attrlib.store.runs import Run
from attrlib.store.store import Sizes, Store
from attrlib.store.tables import SCHEMA

__all__ = ["SCHEMA", "Detail", "Record", "Run", "Sizes", "Store", "Verified", "open_store", "parse_bytes", "rounded"]
