"""What modules of transformers return to a classifier: logits, or the features of a backbone without a head, instead of records."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from attrlib.models.folders.image_processors import trained_size
from attrlib.specs import digest


class Logits:
    """Mixed into a class of transformers: returns the logits (B,C) of images (B,3,H,W) alone.

    The paths of the modules inside stay those of transformers, as no module is wrapped around them.
    """

    reverses_channels = interpolates = False
    config: Any

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Return the logits (B,C); position embeddings are interpolated for images of another size than the config's."""
        images = pixel_values.flip(1) if self.reverses_channels else pixel_values
        return self.read(super().forward(images, **self.options(images)))  # type: ignore[misc]

    def options(self, images: Tensor) -> dict[str, Any]:
        """Return the other arguments of the forward pass."""
        resized = self.interpolates and tuple(images.shape[-2:]) != trained_size(self.config)
        return {"interpolate_pos_encoding": True} if resized else {}

    def read(self, output: Any) -> Tensor:
        """Return what is explained of the record that transformers returns."""
        logits: Tensor = output.logits
        return logits

    def extra_repr(self) -> str:
        """Return what no module shows, in which configs may differ; the digest of a classifier covers it."""
        order = ", channels reversed" if self.reverses_channels else ""
        return f"config={settings_digest(self.config)}{order}"


class Features(Logits):
    """Mixed into a backbone of transformers: returns the features (B,D) of images (B,3,H,W) alone.

    They are the `pooler_output` if there is one, else the class token, or without one the mean of the patches.
    """

    shuffles = False

    def options(self, images: Tensor) -> dict[str, Any]:
        """Return the other arguments of the forward pass, by which no patch is moved."""
        if not self.shuffles:
            return super().options(images)
        # A masked autoencoder sorts its patches by this noise; ascending noise leaves each at its place.
        patches = (images.shape[2] // self.config.patch_size) * (images.shape[3] // self.config.patch_size)
        return super().options(images) | {"noise": torch.arange(patches, device=images.device).expand(len(images), -1)}

    def read(self, output: Any) -> Tensor:
        """Return the features of the record that transformers returns."""
        pooled: Tensor | None = getattr(output, "pooler_output", None)
        if pooled is not None:
            return pooled.flatten(1)
        tokens: Tensor = output.last_hidden_state
        return tokens[:, 0] if _has_class_token(self) else tokens.mean(1)


def _has_class_token(module: Any) -> bool:
    return getattr(getattr(module, "embeddings", None), "cls_token", None) is not None


def settings_digest(config: Any) -> str:
    """Return a digest of the values of a config on which the computation may depend."""
    return digest(_settings(config.to_dict()))


def _settings(values: Mapping[str, Any]) -> dict[str, str]:
    """Return what the computation may depend on: not where the config comes from, nor the names of the classes."""
    others = ("_name_or_path", "architectures", "dtype", "id2label", "label2id", "problem_type", "transformers_version")
    return {key: str(_settings(value) if isinstance(value, dict) else value) for key, value in values.items() if key not in others}


def returning(mixin: type[Logits], cls: Any) -> Any:
    """Return the subclass of a class of transformers into which a mixin of this module is mixed."""
    parameters = inspect.signature(cls.forward).parameters
    members = {"__module__": __name__, "interpolates": "interpolate_pos_encoding" in parameters, "shuffles": "noise" in parameters}
    return type(cls.__name__, (mixin, cls), members)
