"""Closer looks at one picture, or at a few: what is behind a score, computed in memory."""
