"""The suppression list: addresses that bounced or complained, which nobody should write to again."""

import re
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from email_service.adapters.addresses import mailbox_key
from email_service.errors import SuppressionsUnreadable
from jobkit.contracts.email import address_of

_ADDRESS: Final = re.compile(r"[^\s@,;:<>]*@[^\s@,;:<>]+")


class SuppressionList:
    """A text file with one address a line; what follows ``#`` is a remark. It is read again when it has changed.

    A line ``@example.org`` holds every address of that domain.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._stamp: tuple[int, int, int] | None = None
        self._keys: frozenset[str] = frozenset()

    def __contains__(self, address: object) -> bool:
        """Return whether nobody should write to an address.

        Raises:
            SuppressionsUnreadable: the file cannot be read.
        """
        keys = self._read()
        if not keys:
            return False
        key = mailbox_key(str(address))
        return key in keys or f"@{key.rpartition('@')[2]}" in keys

    def _read(self) -> frozenset[str]:
        if self._path is None:
            return self._keys
        try:
            with self._lock:
                status = self._path.stat()
                stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
                if stamp != self._stamp:
                    lines = self._path.read_text(encoding="utf-8-sig").splitlines()
                    self._keys, self._stamp = frozenset(_keys(lines)), stamp
                return self._keys
        except (OSError, ValueError) as error:
            raise SuppressionsUnreadable(f"EMAIL_SUPPRESSIONS: {self._path} cannot be read: {error}") from error


def _keys(lines: Iterable[str]) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        if found := line.partition("#")[0].strip():
            address = address_of(found)
            if not _ADDRESS.fullmatch(address):  # else nobody would be spared, and nobody told
                raise ValueError(f"line {number} is neither an address nor @ and a domain")
            yield mailbox_key(address)
