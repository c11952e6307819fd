"""Guided Grad-CAM: the product of Guided Backprop and Grad-CAM."""

from dataclasses import dataclass

from torch import Tensor, nn

from attrlib.errors import LayerError
from attrlib.methods.base import METHODS, Method, Passes
from attrlib.methods.cams import GRAD_CAM, GradCAM
from attrlib.methods.cancelled import MAGNITUDES, check_sum
from attrlib.methods.context import AttributionContext
from attrlib.methods.guided import GuidedBackprop
from attrlib.models import Classifier, Layer
from attrlib.postprocess import resize
from attrlib.registry import param

FIRST = "First"


@METHODS.register
@dataclass(frozen=True)
class GuidedGradCAM(Method):
    """Guided Grad-CAM: Guided Backprop at the layer, summed over channels, times Grad-CAM at `cam`, resized bilinearly."""

    name, family, paper, fast = "Guided Grad-CAM", "CAM", GRAD_CAM, True
    needs = GuidedBackprop.needs
    operations = True
    cam: str = param(
        "Final", "Layer of the Grad-CAM; First is the first convolution, as in Erdem's study", choices=("Final", "Middle", FIRST)
    )

    def check(self, model: Classifier, layer: Layer) -> None:
        model.layer(self._cam_layer(model))
        GuidedBackprop(channels=MAGNITUDES).check(model, layer)
        check_sum(self.name, model, layer)

    def attribute(self, context: AttributionContext) -> Tensor:
        cam = GradCAM().attribute(context.at(self._cam_layer(context.classifier)))
        return GuidedBackprop().attribute(context) * resize(cam, context.layer.shape[1:])

    def passes(self, layer: Layer) -> Passes:
        return Passes(forward=1, gradient=1)

    def _cam_layer(self, model: Classifier) -> str:
        if self.cam != FIRST:
            return self.cam
        modules = dict(model.module.named_modules())
        first = next((path for path in model.layers if isinstance(modules.get(path), nn.Conv2d)), None)
        if first is None:
            raise LayerError(f"{model.name} has no convolution, so Guided Grad-CAM has no layer {FIRST}; choose cam=Final")
        return first
