"""The outside world as the handlers see it: a storage and pictures."""

from images_service.adapters.resources import Resources, open_resources

__all__ = ["Resources", "open_resources"]
