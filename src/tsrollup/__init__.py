"""Continuous aggregates for the PostgreSQL you already have."""

__version__ = "0.1.0"
