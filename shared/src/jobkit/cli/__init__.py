"""The ``jobkit`` command; ``main`` holds what can be typed, and a file for each noun what it then does."""

from jobkit.cli.main import app

__all__ = ["app"]
