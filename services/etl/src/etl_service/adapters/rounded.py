"""What a file of typed rows says about its doubles: in which column the first row has more digits than one keeps."""

import json
from collections.abc import Mapping
from typing import Final

#: The key in the metadata of typed rows: a JSON object of numbers of rows by names of columns.
ROUNDED: Final = b"etl.rounded"


def rounded_of(metadata: Mapping[bytes, bytes] | None) -> dict[str, int]:
    """What the metadata of typed rows, or of their file (not of its schema), says under ``ROUNDED``."""
    found = json.loads((metadata or {}).get(ROUNDED, b"{}"))
    return {str(name): int(row) for name, row in found.items()}
