"""The outside world as the handlers see it: a storage and pictures."""

import os

os.environ.setdefault("VIPS_WARNING", "0")  # libvips reads it once, when it is loaded: its warnings go nowhere

import pyvips  # type: ignore[import-untyped]

from images_service.adapters.resources import Resources, open_resources

__all__ = ["Resources", "open_resources"]

# pyvips hands libvips' warnings to Python's logging, from inside GLib's log function. Python may collect garbage there,
# which frees an image, which warns: GLib takes a warning within a warning for fatal, and ends the process.
pyvips._remove_log_handler()
