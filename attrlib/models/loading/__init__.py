"""From a checkpoint's keys and shapes to a network with its weights."""
