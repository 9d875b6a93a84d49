"""Continuous aggregates for the PostgreSQL you already have."""

__version__ = "0.2.0.dev0"
