"""Spec of the explanation of one image with several methods, and of its view."""

from dataclasses import dataclass
from typing import ClassVar

from attrlib.registry import REQUIRED, nested, param
from attrlib.specs.codec import Spec
from attrlib.specs.method import MethodSpec, methods_param
from attrlib.specs.model import ModelSpec
from attrlib.specs.text import MOST, whole
from attrlib.specs.view import ViewSpec


def _parse_class(value: object) -> int:
    return whole(value, "target")


@dataclass(frozen=True)
class ExplainSpec(Spec):
    """One image explained with several methods, and its view, as in a link, a command line or a manifest."""

    command: ClassVar[str] = "explain"
    out: ClassVar[str] = "explained"
    noun: ClassVar[str] = "explanation"

    model: ModelSpec = nested(ModelSpec)
    image: str = param(
        REQUIRED,
        "A picture file (JPEG, PNG, WebP, BMP, TIFF, .npy or DICOM), sample:NAME, or birds:SPLIT/INDEX",
        missing="no image given: add --image FILE, or try --image sample:cat",
    )
    methods: tuple[MethodSpec, ...] = methods_param()
    target: int | None = param(
        None, "Class index or name", read=_parse_class, check=_parse_class, auto="the predicted class", none="predicted"
    )
    seed: int = param(0, "Seed of random methods", low=0, high=MOST)
    view: ViewSpec = nested(ViewSpec)

    def snippet(self) -> str:
        """Return equivalent Python code."""
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
