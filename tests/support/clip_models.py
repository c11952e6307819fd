"""Small random CLIP and SigLIP models with tokenizers, saved as their users save them."""

import string
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn

FAMILIES = ("CLIP", "SigLIP")
_VISION = dict(image_size=32, patch_size=8, hidden_size=24, num_hidden_layers=3, num_attention_heads=3, intermediate_size=48)
_TEXT = dict(hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, max_position_embeddings=24)
WORDS = ("a", "photo", "of", "the", "cat", "dog", "fox", "art", "drawing")


def tokenizer(family: str) -> Any:
    """Return a tokenizer of characters for CLIP, and one of words for SigLIP."""
    import transformers

    if family == "CLIP":
        units = ["<|startoftext|>", "<|endoftext|>", *string.ascii_lowercase, *(f"{c}</w>" for c in string.ascii_lowercase)]
        return transformers.CLIPTokenizer(vocab={unit: i for i, unit in enumerate(units)}, merges=[])
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(("<pad>", "<unk>", *WORDS))}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", unk_token="<unk>")


def tiny_clip(family: str) -> Any:
    """Return a small random model of images and texts whose logits differ."""
    import transformers

    if family == "CLIP":
        text = dict(_TEXT, vocab_size=60, bos_token_id=0, eos_token_id=1, pad_token_id=1)
        config = transformers.CLIPConfig(text_config=text, vision_config=_VISION, projection_dim=16)
        kind = transformers.CLIPModel
    else:
        config = transformers.SiglipConfig(text_config=dict(_TEXT, vocab_size=20, pad_token_id=0), vision_config=_VISION)
        kind = transformers.SiglipModel
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = kind(config).eval()
        for p in model.parameters():
            if p.ndim > 1:
                nn.init.normal_(p, std=1.2 * p[0].numel() ** -0.5)
        model.logit_scale.fill_(1.5)
        if family == "SigLIP":
            model.logit_bias.fill_(-2.0)
    return model


def saved_clip(folder: Path, family: str) -> Path:
    """Save a tiny model with its tokenizer in a folder."""
    tiny_clip(family).save_pretrained(folder)
    tokenizer(family).save_pretrained(folder)
    return folder


def reference(folder: Path, images: torch.Tensor, texts: list[str]) -> torch.Tensor:
    """Return the logits (B,C) of transformers' own loading."""
    import transformers

    model = transformers.AutoModel.from_pretrained(folder).eval()
    clip = model.config.model_type == "clip"
    read = transformers.AutoTokenizer.from_pretrained(folder)(
        texts, return_tensors="pt", padding=True if clip else "max_length", max_length=24, truncation=True
    )
    options = {"attention_mask": read["attention_mask"]} if clip else {}
    with torch.no_grad():
        return model(input_ids=read["input_ids"], pixel_values=images, **options).logits_per_image
