"""Execution of runs, and one job queue for each device, shared by all callers."""
