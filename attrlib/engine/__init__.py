"""Runs work: one queue for each device, shared by everybody who asks."""
