"""Training: fine-tuning on images with deleted cells, and the models that come with the project."""

from attrlib.training.finetune import Job, finetune
from attrlib.training.recipe import PRESETS, Recipe
from attrlib.training.train import Progress, Right, Trained, accuracies, train

__all__ = ["PRESETS", "Job", "Progress", "Recipe", "Right", "Trained", "accuracies", "finetune", "train"]
