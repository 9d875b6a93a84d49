"""Continuous aggregates for the PostgreSQL you already have."""


def __getattr__(name: str) -> str:
    # Read when it is asked for: importlib.metadata takes longer than the rest of the start.
    if name == "__version__":
        from importlib.metadata import version

        return version("tsrollup")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
