"""Benchmarks of speed, memory and results, each run as `python -m benchmarks.NAME`."""
