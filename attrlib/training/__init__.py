"""Training: fine-tuning on images with deleted cells, and the models that come with the project."""

from attrlib.training.accuracy import Right, accuracies
from attrlib.training.finetune import Training, train_checkpoint
from attrlib.training.recipe import PRESETS, Recipe
from attrlib.training.train import Trained, TrainingProgress, train

__all__ = ["PRESETS", "Recipe", "Right", "Trained", "Training", "TrainingProgress", "accuracies", "train", "train_checkpoint"]
