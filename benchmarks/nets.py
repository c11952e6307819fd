"""The networks that benchmarks run on."""

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import torch
import torchvision

from attrlib.models import EMBEDDED, Classifier

VIT_TINY = "vit_tiny"


def load(name: str = EMBEDDED, device: str = "auto") -> Classifier:
    """Return a model by name, with random weights if it is not shipped.

    `vit_tiny` is ViT-Tiny in the modules of torchvision, which more libraries read than those of timm. It runs on the CPU.
    """
    if name != VIT_TINY:
        return attrlib.load_model(name, device, pretrained=":" not in name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = torchvision.models.VisionTransformer(224, 16, num_layers=12, num_heads=3, hidden_dim=192, mlp_dim=768)
        # Torchvision starts with a head of zeros.
        torch.nn.init.normal_(net.heads.head.weight, std=0.02)
    return attrlib.wrap_model(net.eval(), 224)
