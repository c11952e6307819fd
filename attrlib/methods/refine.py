"""RefineCAM: class activation maps of several layers, multiplied, at the resolution of the first."""

from dataclasses import dataclass

import torch
from torch import Tensor

from attrlib.methods.base import METHODS, Method, Passes
from attrlib.methods.context import AttributionContext
from attrlib.models import Classifier, Layer
from attrlib.models.cells import CellView
from attrlib.models.layers import stages
from attrlib.postprocess import resize
from attrlib.registry import Paper, param

REFINE_CAM = Paper("Domeniconi et al. 2026", "How to Evaluate and Refine your CAM", "https://arxiv.org/abs/2605.14641")
CAMS = ("Grad-CAM++", "Grad-CAM", "Layer-CAM", "XGrad-CAM", "HiRes-CAM", "ShapleyCAM")


@METHODS.register
@dataclass(frozen=True)
class RefineCAM(Method):
    """RefineCAM: prod_l M_l, scaled to [0, 1], M_l the CAM at layer l, resized bilinearly to the first layer and scaled to [0, 1].

    The layers are the one that is explained and the last `layers` - 1 stages downstream of it, up to Final: of each resolution the last
    stage, or the last blocks of a network with a single resolution. At Final and later, the map is the scaled CAM. Where one CAM is
    zero, so is the product.
    """

    name, family, paper = "RefineCAM", "CAM", REFINE_CAM
    default_layer, signed = "Middle", False
    cam: str = param("Grad-CAM++", "CAM of each layer", choices=CAMS)
    layers: int = param(4, "Number of layers", low=2, high=100)

    def check(self, model: Classifier, layer: Layer) -> None:
        for name in self._names(model, layer):
            METHODS[self.cam]().check(model, model.layer(name))

    def attribute(self, context: AttributionContext) -> Tensor:
        names = self._names(context.classifier, context.layer)
        product = torch.ones_like(context.reduce(context.inputs))
        for which, _ in context.variants(len(names)):
            for i in which:
                cam = METHODS[self.cam]().attribute(context.at(names[i]))
                product = product * scaled(resize(cam, context.layer.shape[1:]))
        return scaled(product)

    def passes(self, layer: Layer) -> Passes:
        one = METHODS[self.cam]().passes(layer)
        return Passes(gradient=self.layers * one.gradient, before=self.layers)

    def _names(self, model: Classifier, layer: Layer) -> list[str]:
        """Return the names of the layers, the one that is explained first."""
        whole = model.model if isinstance(model, CellView) else model
        order = {place.path: i for i, (name, place) in enumerate(whole.layers.items()) if name == place.path}
        if "Final" not in whole.layers or not order:
            return [layer.name]
        final = whole.layers["Final"].path
        first = order.get(layer.path, -1)
        paths = [*stages(whole.module, {path: whole.layers[path] for path in order}), final]
        later = sorted({path for path in paths if first < order[path] <= order[final]}, key=order.__getitem__)
        sizes = {path: whole.layers[path].shape[1:] for path in later}
        if len({place.shape[1:] for path, place in whole.layers.items() if path in order}) > 1:
            later = list({sizes[path]: path for path in later}.values())
        return [layer.name, *later[1 - self.layers :]]


def scaled(maps: Tensor) -> Tensor:
    """Return maps (B,1,h,w), each scaled to [0, 1]; a constant map becomes zero."""
    low, high = maps.amin((2, 3), keepdim=True), maps.amax((2, 3), keepdim=True)
    return (maps - low) / torch.where(high > low, high - low, 1.0)
