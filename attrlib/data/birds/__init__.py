"""Birds made of parts: a procedural data set of which is known what every part contributes.

In the spirit of FunnyBirds (Hesse et al., ICCV 2023, arXiv 2308.06248), with drawings of our own. A class is a combination of variants
of six parts, each variant a shape and a colour; no part alone tells the class, any two do. Pose, size, place, light, background and
clutter are random. Everything follows from the split and the index, nothing is stored, and each scene can be drawn without any of its
parts, all else the same.
"""

from attrlib.data.birds.classes import CLASS_NAMES, CODE, PARTS
from attrlib.data.birds.dataset import Birds
from attrlib.data.birds.scene import SIZE, SIZES, VERSION, BirdScene, labels, masks, render, scene_id

__all__ = ["CLASS_NAMES", "CODE", "PARTS", "SIZE", "SIZES", "VERSION", "BirdScene", "Birds", "labels", "masks", "render", "scene_id"]
