"""Limits on what a file may ask for."""

MOST_CLASSES = 100_000
"""Maximum number of classes, more than any classifier in use has: ImageNet-21k has 21,843."""
