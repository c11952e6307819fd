"""On-disk store of scores, attribution maps and runs, so that nothing is computed twice."""

from attrlib.store.claims import Claims, Pairs
from attrlib.store.files import rounded
from attrlib.store.maps import Verified
from attrlib.store.merge import MergedShards, import_parts, merge_shards
from attrlib.store.opening import open_store, parse_bytes
from attrlib.store.parts import items_in, parts_in, write_part
from attrlib.store.records import Detail, Record, row_of
from attrlib.store.runs import Run
from attrlib.store.shards import ShardGroup, ShardManifest, manifests_in, missing_shards
from attrlib.store.store import Sizes, Store
from attrlib.store.tables import SCHEMA

__all__ = [
    "SCHEMA",
    "Claims",
    "Detail",
    "MergedShards",
    "Pairs",
    "Record",
    "Run",
    "ShardGroup",
    "ShardManifest",
    "Sizes",
    "Store",
    "Verified",
    "import_parts",
    "items_in",
    "manifests_in",
    "merge_shards",
    "missing_shards",
    "open_store",
    "parse_bytes",
    "parts_in",
    "rounded",
    "row_of",
    "write_part",
]
