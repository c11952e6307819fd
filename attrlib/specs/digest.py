"""Content digests: the canonical JSON text of a value, and its hash."""

import dataclasses
import hashlib
import json

NUMERICS = 2
"""Version of the numerics. Increased whenever the values of any method change, so that stale results are never read from the cache."""


def digest(*parts: object) -> str:
    """Return a content digest (32 hex digits) of JSON values, specs and byte strings."""
    hasher = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part if isinstance(part, bytes | memoryview) else canonical(part).encode()
        hasher.update(len(data).to_bytes(8, "little"))
        hasher.update(data)
    return hasher.hexdigest()


def canonical(value: object) -> str:
    """Return the canonical JSON text of a value: sorted keys, no spaces, specs as objects."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=_plain, allow_nan=False)


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if _counts(f, getattr(value, f.name))}
    raise TypeError(f"{type(value).__name__} has no canonical JSON")


def _counts(field: dataclasses.Field[object], value: object) -> bool:
    """Return whether a field is part of the canonical text, as its metadata `digest` says: `if set` (not the default), or `never`."""
    rule = field.metadata.get("digest")
    return rule is None or (rule == "if set" and value != field.default)
