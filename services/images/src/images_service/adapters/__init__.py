"""The outside world as the handlers see it: a storage and pictures."""

import pyvips  # type: ignore[import-untyped]  # it ships stubs, but no py.typed marker

from images_service.adapters.resources import Resources, open_resources

__all__ = ["Resources", "open_resources"]

# pyvips hands libvips' warnings to Python's logging, from inside GLib's log function. Python may collect garbage there,
# which frees an image, which warns: GLib takes a warning within a warning for fatal, and ends the process. So GLib
# writes them to standard error; VIPS_WARNING=0, as in the container, keeps libvips from writing any.
pyvips._remove_log_handler()
