"""What a no-op job of any system does: append when it was sent and when it started."""

import os
import struct
import time

_LINE = struct.Struct("dd")
_file: int | None = None


def write_line(sent: float) -> None:
    """Append one line in one write, so that threads and processes do not mix theirs."""
    global _file  # one descriptor per process, opened by its first job
    if _file is None:
        _file = os.open(os.environ["LOAD_FILE"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(_file, _LINE.pack(sent, time.time()))
