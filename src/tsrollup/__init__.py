"""Continuous aggregates for the PostgreSQL you already have."""

from importlib.metadata import version

__version__ = version("tsrollup")
