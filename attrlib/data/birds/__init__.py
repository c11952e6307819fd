"""Birds made of parts: a procedural data set whose parts can be removed, so that the contribution of each part is known.

It follows the idea of FunnyBirds (Hesse et al., ICCV 2023, arXiv 2308.06248), with new drawings. A class is a combination of variants
of six parts, where each variant has a shape and a colour. No single part determines the class, but any two do. Pose, size, position,
light, background and clutter are random. A scene depends only on the split and the index, nothing is stored, and each scene can be
drawn without any of its parts and of the objects of its background, everything else unchanged.
"""

from attrlib.data.birds.backdrop import OBJECTS
from attrlib.data.birds.classes import CLASS_NAMES, CODE, PARTS
from attrlib.data.birds.dataset import Birds
from attrlib.data.birds.scene import SIZE, SIZES, VERSION, BirdScene, labels, masks, render, scene_id
from attrlib.data.birds.trojaned import TrojanedBirds

__all__ = [
    "CLASS_NAMES",
    "CODE",
    "OBJECTS",
    "PARTS",
    "SIZE",
    "SIZES",
    "VERSION",
    "BirdScene",
    "Birds",
    "TrojanedBirds",
    "labels",
    "masks",
    "render",
    "scene_id",
]
