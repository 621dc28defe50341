"""What a file of typed rows says about its doubles: in which column the first row has more digits than one keeps."""

import json
from typing import Final

import pyarrow as pa  # type: ignore[import-untyped]  # ships no types

#: The key in the metadata of typed rows: a JSON object of numbers of rows by names of columns.
ROUNDED: Final = b"etl.rounded"


def rounded_of(rows: pa.Schema) -> dict[str, int]:
    """What the metadata of typed rows, or of their file, says under ``ROUNDED``."""
    found = json.loads((rows.metadata or {}).get(ROUNDED, b"{}"))
    return {str(name): int(row) for name, row in found.items()}
