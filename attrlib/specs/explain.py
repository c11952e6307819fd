"""One picture explained by several methods, and how it is shown."""

from dataclasses import dataclass
from typing import ClassVar

from attrlib.registry import REQUIRED, nested, param
from attrlib.specs.codec import Spec
from attrlib.specs.method import MethodSpec, parse_methods
from attrlib.specs.model import ModelSpec
from attrlib.specs.text import write_list
from attrlib.specs.view import ViewSpec

MOST = 2**31 - 1
"""Largest seed, index or number of items."""
METHODS_HELP = "Separated by commas: NAME, NAME@LAYER:key=value, idsds, rao, erdem, or all"
NO_METHODS = "no method given: add for example --methods IG,Grad-CAM; python -m attrlib methods lists them"


@dataclass(frozen=True)
class ExplainSpec(Spec):
    """One picture explained by several methods, and how it is shown: what a link, a command line or a manifest says."""

    command: ClassVar[str] = "explain"
    out: ClassVar[str] = "explained"
    what: ClassVar[str] = "spec of maps"

    model: ModelSpec = nested(ModelSpec)
    image: str = param(
        REQUIRED, "A JPEG, PNG or WebP file, or sample:NAME", missing="no picture given: add --image FILE, or try --image sample:cat"
    )
    methods: tuple[MethodSpec, ...] = param(REQUIRED, METHODS_HELP, read=parse_methods, write=write_list, missing=NO_METHODS)
    target: int | None = param(None, "Class index or name", low=0, high=MOST, auto="the predicted class", none="predicted")
    seed: int = param(0, "Seed of random methods", low=0, high=MOST)
    view: ViewSpec = nested(ViewSpec)

    def snippet(self) -> str:
        """Return Python that computes the same maps."""
        calls = [
            f"    {str(m)!r}: attrlib.explain(model, photo, {str(m)!r}, target={self.target}, seed={self.seed}).maps," for m in self.methods
        ]
        lines = [
            "import attrlib",
            "",
            f"model = attrlib.load_model({self.model.arguments()})",
            f"photo = attrlib.open_image({self.image!r})",
        ]
        lines += ["maps = {", *calls, "}"]
        if self.view.smoothing:
            lines += [
                f"size = model.input_size\nsmooth = {{k: attrlib.smooth(attrlib.resize(m, size), {self.view.smoothing}) for k, m in maps.items()}}"
            ]
        return "\n".join(lines)
