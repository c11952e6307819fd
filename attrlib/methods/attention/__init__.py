"""Transformer family: how much the tokens that the head reads attend to each patch.

At an inner layer, a map shows how much each token of that layer is attended to through the blocks downstream of it. At Input, it covers
all blocks, and every pixel has the value of its patch. The methods are defined if the tokens can be followed from block to block: in ViT
and DeiT, with or without class token, distillation token and registers, all blocks attend among the same tokens; windows with shifts and
merged patches (Swin), class attention (CaiT) and attention pooling (SigLIP) are composed as `chain` says.
"""

from attrlib.methods.attention import flows, weighted, legrad  # noqa: F401, I001  this is the order of lists and menus
