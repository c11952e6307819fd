"""CLIP and SigLIP of transformers as classifiers: image tower, L2 normalisation, and the embeddings of prompts as a linear head."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from attrlib.errors import ModelError, reason_of
from attrlib.models.built import Built
from attrlib.models.folders.folder import Folder
from attrlib.models.folders.image_processors import FILE as PROCESSOR
from attrlib.models.folders.image_processors import processing_of, trained_size
from attrlib.models.folders.prompts import CLIP, prompts_of, split_prompts
from attrlib.models.folders.transformers_loading import (
    config_of,
    quietly,
    transformers_package,
    with_random_weights,
    with_weights,
)
from attrlib.models.folders.transformers_outputs import settings_digest

_CLASSES = {"clip": "CLIPModel", "siglip": "SiglipModel"}
_OUTPUTS = {"clip": "auto", "siglip": "sigmoid"}
_TOKENIZERS = (("tokenizer.json",), ("vocab.json", "merges.txt"), ("spiece.model",), ("tokenizer.model",))
"""Files with a vocabulary, any of which suffices; without one, transformers makes a tokenizer that knows no words."""
_TOKENIZER_FILES = (
    *(file for files in _TOKENIZERS for file in files),
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
)
_AT_ONCE = 64
"""Texts in one pass of the text tower."""


class L2Norm(nn.Module):
    """Divide each row by its length."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x / |x| of rows (B,D)."""
        return F.normalize(x, dim=-1)


@dataclass(frozen=True)
class TextSide:
    """The text tower of a CLIP or SigLIP model, loaded when it is needed.

    Attributes:
        folder: The folder of the model.
        name: Name of the model, for messages.
    """

    folder: Folder
    name: str

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Return the embeddings (n,D) of texts, of length 1. Raises `ModelError` if the tokenizer is missing, or a text is too long."""
        cls, config = _class_and_config(transformers_package(CLIP), self.folder, self.name)
        tokens = self.tokens(texts, config)
        return _embeddings(with_weights(cls, config, self.folder, self.name)[0], tokens)

    def tokens(self, texts: Sequence[str], config: Any) -> dict[str, Tensor]:
        """Return the tokens (n,T) of texts for a model of this config, which need no weights; raises what a call raises."""
        where = self.folder.files(_TOKENIZER_FILES, self.name)
        if not any(all((where / file).is_file() for file in files) for files in _TOKENIZERS):
            expected = ", ".join(" with ".join(files) for files in _TOKENIZERS)
            raise ModelError(
                f"{self.name} has no tokenizer, which turns texts into numbers; copy its files into the folder: one of {expected}"
            )
        auto: Any = transformers_package(CLIP).AutoTokenizer
        try:
            # No code of the folder runs.
            tokenizer = quietly(lambda: auto.from_pretrained(where, local_files_only=True, trust_remote_code=False), self.name)
            ids = tokenizer(list(texts))["input_ids"]
        except MemoryError:
            raise
        except Exception as error:
            raise ModelError(
                f"the tokenizer of {self.name} cannot be read ({reason_of(error)}); copy or download its files again"
            ) from error
        text, longest = config.text_config, config.text_config.max_position_embeddings
        for prompt, each in zip(texts, ids, strict=True):
            if len(each) > longest:
                raise ModelError(f"the text {prompt[:60]!r} has {len(each)} tokens, but {self.name} reads {longest}; shorten it")
            if max(each, default=0) >= text.vocab_size:
                raise ModelError(f"the tokenizer of {self.name} has other words than its text tower; copy both from the same model")
        # SigLIP was trained on texts of the full length, and reads the last token.
        padding = "max_length" if config.model_type == "siglip" else True
        names = ["input_ids"] if config.model_type == "siglip" else ["input_ids", "attention_mask"]
        padded = tokenizer(list(texts), padding=padding, max_length=longest, truncation=True, return_tensors="pt")
        return {key: padded[key] for key in names}


class PromptClassifier(nn.Module):
    """The image tower of CLIP or SigLIP: images (B,3,H,W) to logits (B,C) of prompts, or without prompts to embeddings (B,D).

    logits = s W v / |v| + b, where v is the embedding of the image, the rows of W are those of the prompts, s is the scale exp(t) of the
    model, and b its bias (SigLIP; 0 for CLIP). s W is the weight of `head`.

    Args:
        model: The model of transformers, whose image tower is used.
        text: Its text side.
        classes: Number of classes; 0 for embeddings of length 1.
    """

    reverses_channels = False

    def __init__(self, model: Any, text: TextSide, classes: int):
        super().__init__()
        self.config = model.config
        self.vision_model = model.vision_model
        self.visual_projection = getattr(model, "visual_projection", nn.Identity())
        self.normalise = L2Norm()
        self.encode_texts = text
        bias = getattr(model, "logit_bias", None)
        width = model.config.projection_dim if hasattr(model, "visual_projection") else _width(model.config.vision_config)
        self.head: nn.Module = nn.Linear(width, classes, bias is not None) if classes else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (B,C), or embeddings (B,D) without prompts; position embeddings are interpolated for other sizes."""
        images = images.flip(1) if self.reverses_channels else images
        options = {"interpolate_pos_encoding": True} if tuple(images.shape[-2:]) != trained_size(self.config) else {}
        features = self.visual_projection(self.vision_model(images, **options).pooler_output)
        return self.head(self.normalise(features))

    def extra_repr(self) -> str:
        """Return what no module shows; the digest of a classifier covers it."""
        return f"config={settings_digest(self.config)}{', channels reversed' if self.reverses_channels else ''}"


def build_clip(folder: Folder, name: str, classes: int | None, pretrained: bool) -> Built:
    """Build the classifier `clip:NAME`: the image tower of a folder, with prompts as its head.

    Args:
        folder: The folder of a CLIP or SigLIP model, or the repository that is downloaded as one.
        name: Name of the model, with its prompts; without any, its outputs are the embeddings of images.
        classes: Number of classes of another head, for training or for a checkpoint; None for that of the prompts.
        pretrained: Whether to load the weights and to embed the prompts; otherwise both are random.

    Raises:
        ModelError: transformers is missing, the folder holds no CLIP or SigLIP, or the prompts are not valid; the message says why.
    """
    prompts = prompts_of(name)
    transformers = transformers_package(CLIP)
    cls, config = _class_and_config(transformers, folder, name)
    processing = processing_of(transformers, folder.settings(PROCESSOR, name), config, name)
    text, count = TextSide(folder, split_prompts(name)[0]), classes or (len(prompts.names) if prompts else 0)
    own = prompts if pretrained and not classes else None
    # Before the weights: what is wrong with a text is said at once.
    tokens = text.tokens([each for texts in own.texts for each in texts], config) if own else None
    model = with_weights(cls, config, folder, name)[0] if pretrained else with_random_weights(cls, config, name)
    module = PromptClassifier(model, text, count)
    module.reverses_channels = processing.reverses_channels
    if isinstance(module.head, nn.Linear):
        _fill(module.head, model, tokens)
    if not count:
        notes = (f"{name} has no prompts: its image embeddings are explained; write {name}?classes=cat|dog for classes", *processing.notes)
        return Built(module, processing.preprocessing, None, "features", notes)
    named = prompts if prompts and len(prompts.names) == count else None
    notes = (named.note, *processing.notes) if named else processing.notes
    outputs = "auto" if classes and not named else _OUTPUTS[config.model_type]
    return Built(module, processing.preprocessing, named.names if named else None, outputs, notes)


def _class_and_config(transformers: Any, folder: Folder, name: str) -> tuple[Any, Any]:
    values = folder.config(name)
    kind = values.get("model_type")
    if kind not in _CLASSES:
        raise ModelError(
            f"{name} holds a model of the type {str(kind)[:80]!r}, not a CLIP or SigLIP with image and text towers; load an image classifier "
            "or a backbone as hf:NAME"
        )
    return getattr(transformers, _CLASSES[kind]), config_of(transformers, values, None, name)


def _embeddings(model: Any, tokens: dict[str, Tensor]) -> Tensor:
    """Return the embeddings (n,D) of texts by a model that is loaded, of length 1."""
    model.eval()
    with torch.inference_mode(False), torch.no_grad():
        parts = [
            model.get_text_features(**{key: value[i : i + _AT_ONCE] for key, value in tokens.items()}).pooler_output
            for i in range(0, len(tokens["input_ids"]), _AT_ONCE)
        ]
        return F.normalize(torch.cat(parts).float(), dim=-1)


def _fill(head: nn.Linear, model: Any, tokens: dict[str, Tensor] | None) -> None:
    """Set the head to the embeddings of prompts, the same number for each class, times the scale; or to random directions of that length."""
    scale, bias = model.logit_scale.detach().exp(), getattr(model, "logit_bias", None)
    with torch.no_grad():
        if tokens is None:
            rows = F.normalize(nn.init.normal_(torch.empty_like(head.weight)), dim=-1)
        else:
            rows = F.normalize(_embeddings(model, tokens).unflatten(0, (head.out_features, -1)).mean(1), dim=-1)
        head.weight.copy_(scale * rows)
        if bias is not None:
            head.bias.copy_(bias.detach().expand_as(head.bias))


def _width(vision: Any) -> int:
    return int(vision.hidden_size)
