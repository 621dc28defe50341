"""The ``jobkit`` command.

``entry`` is what is run first, ``main`` holds what can be typed, and each noun has a file with what it does.
"""

TYPE_CHECKING = False  # without importing typing, which takes longer than all else that ``entry`` needs
if TYPE_CHECKING:
    from jobkit.cli.main import app

__all__ = ["app"]


def __getattr__(name: str) -> object:
    # Loaded when it is asked for: a process has to handle signals before it spends time on this.
    if name == "app":
        from jobkit.cli.main import app

        return app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
