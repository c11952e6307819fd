"""Diagnostics of scores on one or a few images, computed in memory."""
