"""Keys under which results are cached: digests of everything that a score, a measurement or a map depends on."""

import dataclasses

from attrlib.methods import METHODS, instance
from attrlib.models import Classifier
from attrlib.protocols import Measurement, Protocol
from attrlib.registry import params_of
from attrlib.specs import LOGIT, NUMERICS, MethodSpec, digest
from attrlib.targets import create as create_target

Key = tuple[dict[str, object], str]
"""The fields that records depend on besides their item, and their digest."""


@dataclasses.dataclass(frozen=True)
class ResultKeys:
    """Keys of the results of one model.

    Attributes:
        model: The model.
        model_digest: Digest of its weights and its preprocessing.
        seed: Random seed; it is part of the key only of results that depend on it.
        dtype: Precision of cached maps; scores depend on it.
        fast: Whether scores and maps are those of a fast run.
    """

    model: Classifier
    model_digest: str
    seed: int
    dtype: str
    fast: bool = False

    @property
    def _model_fields(self) -> dict[str, object]:
        return {"model": self.model.name, "model_digest": self.model_digest, "numerics": NUMERICS}

    def score(self, protocol: Protocol, method: MethodSpec) -> dict[str, object]:
        """Return the fields that a score depends on besides its item; their digest is the key of the records."""
        seeded = protocol.seeded or instance(method).seeded
        key_fields = {"kind": "score", "protocol": protocol.key(), "fast": self.fast, "maps": self.dtype}
        return self._model_fields | key_fields | self._method(method, protocol.views(self.model)[0], seeded)

    def measurement(self, measurement: Measurement) -> Key:
        """Return the key of a measurement's records."""
        fields = {"name": type(measurement).__name__} | dataclasses.asdict(measurement)
        key_fields = self._model_fields | {"kind": "measurement", "measurement": fields, "seed": self.seed if measurement.seeded else None}
        return key_fields, digest(key_fields)

    def seconds(self, method: MethodSpec, approximate: bool = False) -> Key:
        """Return the key of the seconds that a map takes, by image.

        Args:
            method: The method, resolved.
            approximate: Whether maps of this method are approximated; they are in some fast runs.
        """
        key_fields = self._model_fields | {"kind": "seconds", "device": self.model.device.type, "fast": approximate}
        key_fields |= self._method(method, self.model, False)
        return key_fields, digest(key_fields)

    def diagnostics(self) -> Key:
        """Return the key of the diagnostics of maps, by the key of the map."""
        key_fields = self._model_fields | {"kind": "diagnostics"}
        return key_fields, digest(key_fields)

    def maps(self, method: MethodSpec, model: Classifier, view: str = "", approximate: bool = False) -> str:
        """Return the part of a map's key that does not depend on its image and target; see `map_key`.

        Args:
            method: The method, resolved.
            model: The model that is explained, or a view of it.
            view: Name of the view; empty for the model itself.
            approximate: Whether maps of this method are approximated; they are in some fast runs.
        """
        key_fields = {"view": view, "fast": approximate, "maps": self.dtype}
        return digest(self._model_fields | key_fields | self._method(method, model, instance(method).seeded))

    def _method(self, method: MethodSpec, view: Classifier, seeded: bool) -> dict[str, object]:
        # The path rather than the name: a wrapped model may call any layer Middle.
        layer = view.layer(method.layer, view.input_size).path
        code = METHODS[method.name].code
        custom: dict[str, object] = {"code": code} if code else {}
        if method.target.name != LOGIT:
            custom["target"] = create_target(method.target).key(view)
        late = {p.name: p.default for p in params_of(METHODS[method.name]) if p.digest == "if set"}
        never = {p.name for p in params_of(METHODS[method.name]) if p.digest == "never"}
        counted = {name: value for name, value in method.params if name not in never and (name not in late or value != late[name])}
        return custom | {"method": method.name, "params": counted, "layer": layer, "seed": self.seed if seeded else None}


def map_key(prefix: str, image: str, target: int) -> str:
    """Return the key of a map.

    Args:
        prefix: Key of the method and the model; see `ResultKeys.maps`.
        image: Content digest of the image.
        target: Target class index.
    """
    return digest(prefix, image, target)
