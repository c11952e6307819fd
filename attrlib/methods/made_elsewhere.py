"""Maps that were made elsewhere, as a method that runs can name but that computes nothing."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from attrlib.errors import MethodError
from attrlib.methods.base import METHODS, Method, Passes
from attrlib.methods.context import AttributionContext
from attrlib.models import Layer
from attrlib.models.classifier import Classifier
from attrlib.registry import param
from attrlib.specs.maps import MAPS


@METHODS.unlisted
@dataclass(frozen=True)
class MapsMadeElsewhere(Method):
    """Maps made elsewhere, read from a file or folder; `attrlib.engine.foreign` looks them up."""

    name: ClassVar[str] = MAPS
    family: ClassVar[str] = "made elsewhere"
    file: str = param("", "Path of the file or folder of maps", digest="never")
    digest: str = param("", "Digest of the maps and of the names of the images; found out when a run is planned")

    def check(self, model: Classifier, layer: Layer) -> None:
        raise MethodError(
            "maps made elsewhere can be scored, but not computed for other images; use attrlib score --maps or attrlib.score(maps=...)"
        )

    def attribute(self, context: AttributionContext) -> Tensor:
        raise AssertionError("check() refuses this")

    def passes(self, layer: Layer) -> Passes:
        return Passes(before=0)
