"""Train models: fine-tuning on images with deleted patches, and the shipped models."""

from attrlib.training.accuracy import Right, accuracies
from attrlib.training.finetune import Training, train_checkpoint
from attrlib.training.recipe import PRESETS, Recipe
from attrlib.training.train import Trained, TrainingProgress, train

__all__ = ["PRESETS", "Recipe", "Right", "Trained", "Training", "TrainingProgress", "accuracies", "train", "train_checkpoint"]
