"""Training: fine-tuning on images with deleted cells, and the models that come with the project."""

from attrlib.training.accuracy import Right, accuracies
from attrlib.training.finetune import Training, train_checkpoint
from attrlib.training.recipe import PRESETS, Recipe
from attrlib.training.train import Progress, Trained, train

__all__ = ["PRESETS", "Progress", "Recipe", "Right", "Trained", "Training", "accuracies", "train", "train_checkpoint"]
