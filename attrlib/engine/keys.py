"""Keys under which results are cached: digests of everything that a score, a measurement or a map depends on."""

import dataclasses

from attrlib.methods import METHODS, instance
from attrlib.models import Classifier
from attrlib.protocols import Measurement, Protocol
from attrlib.specs import NUMERICS, MethodSpec, digest

Key = tuple[dict[str, object], str]
"""Everything that records depend on besides their item, and the digest of it."""


@dataclasses.dataclass(frozen=True)
class ResultKeys:
    """Keys of the results of one model.

    Attributes:
        model: The model.
        model_digest: Digest of its weights and its preprocessing.
        seed: Seed of everything random. Results that do not depend on it do not have it in their key.
        dtype: Precision of cached maps, which scores depend on.
        fast: Whether scores and maps are those of a fast run.
    """

    model: Classifier
    model_digest: str
    seed: int
    dtype: str
    fast: bool = False

    @property
    def _about(self) -> dict[str, object]:
        return {"model": self.model.name, "model_digest": self.model_digest, "numerics": NUMERICS}

    def score(self, protocol: Protocol, method: MethodSpec) -> dict[str, object]:
        """Return everything that a score depends on besides its item; its digest is the key of the records."""
        seeded = protocol.seeded or instance(method).seeded
        about = {"kind": "score", "protocol": protocol.key(), "fast": self.fast, "maps": self.dtype}
        return self._about | about | self._method(method, protocol.views(self.model)[0], seeded)

    def measurement(self, measurement: Measurement) -> Key:
        """Return the key of a measurement's records."""
        fields = {"name": type(measurement).__name__} | dataclasses.asdict(measurement)
        about = self._about | {"kind": "measurement", "measurement": fields, "seed": self.seed if measurement.seeded else None}
        return about, digest(about)

    def seconds(self, method: MethodSpec, approximate: bool = False) -> Key:
        """Return the key of the seconds that a map takes, by image.

        Args:
            method: The method, resolved.
            approximate: Whether maps of this method are approximated; they are in some fast runs.
        """
        about = self._about | {"kind": "seconds", "device": self.model.device.type, "fast": approximate}
        about |= self._method(method, self.model, False)
        return about, digest(about)

    def diagnostics(self) -> Key:
        """Return the key of the diagnostics of maps, by the key of the map."""
        about = self._about | {"kind": "diagnostics"}
        return about, digest(about)

    def maps(self, method: MethodSpec, model: Classifier, view: str = "", approximate: bool = False) -> str:
        """Return the part of a map's key that does not depend on its image and target; see `map_key`.

        Args:
            method: The method, resolved.
            model: The model that is explained, or a view of it.
            view: Name of the view; empty for the model itself.
            approximate: Whether maps of this method are approximated; they are in some fast runs.
        """
        about = {"view": view, "fast": approximate, "maps": self.dtype}
        return digest(self._about | about | self._method(method, model, instance(method).seeded))

    def _method(self, method: MethodSpec, view: Classifier, seeded: bool) -> dict[str, object]:
        # The path rather than the name: a wrapped model may call any layer Middle.
        layer = view.layer(method.layer, view.input_size).path
        code = METHODS[method.name].code
        custom = {"code": code} if code else {}
        return custom | {"method": method.name, "params": method.values, "layer": layer, "seed": self.seed if seeded else None}


def map_key(prefix: str, image: str, target: int) -> str:
    """Return the key of a map.

    Args:
        prefix: Key of the method and the model; see `ResultKeys.maps`.
        image: Content digest of the image.
        target: Target class index.
    """
    return digest(prefix, image, target)
