"""Similarity of features as target: to another picture, to one of its patches, or to a text."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from attrlib.data.images import Photo
from attrlib.data.pictures import open_image
from attrlib.errors import ImageError, ModelError, TargetError
from attrlib.models import Classifier, Layer
from attrlib.models.embedding import Embedding, embedding, features_read, text_embedding
from attrlib.registry import Paper, param
from attrlib.targets.base import TARGETS, Target
from attrlib.targets.inner import InnerOutputs, inner_view
from attrlib.targets.readout import Cosine, Readout

SIMILARITY = Paper("Stylianou et al. 2019", "Visualizing Deep Similarity Networks", "https://arxiv.org/abs/1901.00536")

_NEEDS = "similarity needs another picture or a text: write similarity:to=PICTURE or similarity:text=TEXT"


@TARGETS.register
@dataclass(frozen=True)
class Similarity(Target):
    """The cosine similarity of the picture's features with those of another picture, of one of its patches, or of a text.

    Features are what the model's head reads, or the outputs of a backbone without a head. A patch is a position of the last layer that has
    as many channels as there are features.
    """

    name, title, paper, linear = "similarity", "Similarity of features", SIMILARITY, False
    needs = ("a linear head, or no head",)
    to: str = param("", "The other picture: a file, sample:NAME or birds:SPLIT/INDEX", names="picture", label="To the picture")
    text: str = param("", "A text, for models with a text side (clip:NAME)", label="To the text")
    row: int | None = param(None, "Row of a patch of the other picture", low=0, high=100_000, auto="the whole picture")
    column: int | None = param(None, "Column of a patch of the other picture", low=0, high=100_000, auto="the whole picture")

    def check(self, model: Classifier, layer: Layer) -> None:
        if bool(self.to) == bool(self.text):
            raise TargetError(_NEEDS)
        if type(model) is not Classifier:
            raise TargetError("similarity compares single images; explain the grid by the target logit")
        features = _embedding(model)
        if self.text:
            if self.row is not None or self.column is not None:
                raise TargetError("row and column belong to another picture; leave them out for a text")
            self._text(model)
            return
        self._photo()
        if (self.row is None) != (self.column is None):
            raise TargetError("a patch needs a row and a column: write similarity:to=PICTURE:row=ROW:column=COLUMN")
        if self.row is not None and self.column is not None:
            at = _patches(model, features)
            if self.row >= at.layout.height or self.column >= at.layout.width:
                raise TargetError(
                    f"there is no patch at row {self.row}, column {self.column}: layer {at.name} has {at.layout.height} x "
                    f"{at.layout.width} patches, counted from 0"
                )

    def phrase(self, model: Classifier, target: int) -> str:
        return f"similarity to {self.text or self.to}"

    def key(self, model: Classifier) -> tuple[object, ...]:
        return (self.name, self.text) if self.text else (self.name, self._photo().digest, self.row, self.column)

    def view(self, model: Classifier) -> Classifier:
        features = _embedding(model)
        if not features.path:
            return model
        head = model.module.get_submodule(features.path)
        outputs = InnerOutputs(
            "features", activation=model.outputs.activation, path=features.path, reading=lambda x: features_read(head, x), of_input=True
        )
        return inner_view(model, outputs, tuple(f"feature {k}" for k in range(features.size)))

    def readout(self, model: Classifier, classes: Tensor, logits: Callable[[], Tensor]) -> Readout:
        if self.text:
            return Cosine(self._text(model).detach())
        image = model.place(model.preprocess(self._photo())[None])
        with torch.no_grad():
            if self.row is None or self.column is None:
                return Cosine(model.logits(image)[0].float())
            at = _patches(model, embedding(model))
            values = at.layout.spatial(model.split(at).fresh().before(image))
        return Cosine(values[0, :, self.row, self.column].float())

    def _photo(self) -> Photo:
        if not self.to:
            raise TargetError(_NEEDS)
        try:
            return open_image(self.to)
        except ImageError as error:
            raise TargetError(f"similarity:to={self.to[:80]}: {error}") from None

    def _text(self, model: Classifier) -> Tensor:
        try:
            return text_embedding(model, self.text)
        except ModelError as error:
            raise TargetError(f"similarity:text={self.text[:80]}: {error}") from None


def _embedding(model: Classifier) -> Embedding:
    try:
        return embedding(model)
    except ModelError as error:
        raise TargetError(f"similarity is not defined: {error}") from None


def _patches(model: Classifier, features: Embedding) -> Layer:
    """Return the last layer that has as many channels as there are features."""
    layers = [layer for name, layer in model.layers.items() if name == layer.path and layer.layout.channels == features.size]
    if not layers:
        raise TargetError(
            f"{model.name} has no layer whose patches have {features.size} channels, as its features; leave out row and column"
        )
    return layers[-1]
