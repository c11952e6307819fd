"""Figures: maps drawn over photos, charts of scores, and files to download."""
