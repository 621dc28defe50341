"""Sizes: what an operation makes of a width and a height, before any pixel is touched."""

import math
from typing import NamedTuple

from jobkit.contracts.images import Crop, Operation, Resize, Rotate


class Scaling(NamedTuple):
    """Cut ``across`` x ``down`` pixels out of the middle, then scale them to ``width`` x ``height``."""

    across: float
    down: float
    width: int
    height: int


def scaling(wanted: Resize, width: int, height: int) -> Scaling:
    """Return what the contract's ``Resize`` asks for, of an image of that size."""
    if wanted.width is not None and wanted.height is not None and wanted.fit != "inside":
        most = min(width / wanted.width, height / wanted.height)
        shrunk = 1.0 if wanted.enlarge else min(1.0, most)
        box_width, box_height = max(1, round(wanted.width * shrunk)), max(1, round(wanted.height * shrunk))
        if wanted.fit == "stretch":
            return Scaling(width, height, box_width, box_height)
        # At least one pixel: of a strip, the box may cut out less.
        return Scaling(
            max(1.0, min(width, height * wanted.width / wanted.height)),
            max(1.0, min(height, width * wanted.height / wanted.width)),
            box_width,
            box_height,
        )
    across = wanted.width / width if wanted.width else math.inf
    down = wanted.height / height if wanted.height else math.inf
    factor = min(across, down) if wanted.enlarge else min(across, down, 1.0)
    return Scaling(width, height, max(1, round(width * factor)), max(1, round(height * factor)))


def rotated(angle: float, width: int, height: int) -> tuple[int, int]:
    """Return the size of the upright box around an image that is turned by ``angle`` degrees."""
    if angle % 180 == 0:
        return width, height
    if angle % 90 == 0:
        return height, width
    sine, cosine = abs(math.sin(math.radians(angle))), abs(math.cos(math.radians(angle)))
    return math.ceil(width * cosine + height * sine) + 1, math.ceil(width * sine + height * cosine) + 1


def size_after(operation: Operation, width: int, height: int) -> tuple[int, int]:
    """Return the size of what the operation makes of an image of that size; of a turned one at most a pixel more."""
    match operation:
        case Resize():
            return scaling(operation, width, height)[2:]
        case Crop():
            return operation.width, operation.height
        case Rotate(angle=angle):
            return rotated(angle, width, height)
        case _:
            return width, height
