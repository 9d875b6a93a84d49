"""Benchmarks: both sides of every ratio are measured in the same run, in turn."""
