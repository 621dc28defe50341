"""The address of an object storage, or a folder in its place."""

import re
from collections.abc import Collection
from typing import Final
from urllib.parse import urlsplit

#: A scheme of two letters or more, with or without the two slashes that belong behind it.
_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(//)?")


def storage_url(text: str, *, schemes: Collection[str], folders: bool = True) -> str:
    """Return the address in ``text`` with its scheme in lower case.

    Args:
        text: A URL, or a folder.
        schemes: Those that the service opens, such as ``file`` and ``s3``.
        folders: Whether a folder may stand in place of a URL.

    Raises:
        ValueError: It is none, or names another place than it seems to.
    """
    forms = ", ".join("file:///folder" if scheme == "file" else f"{scheme}://…" for scheme in schemes)
    forms += " or a folder" if folders else ""
    found = _SCHEME.match(text)
    if found is None:
        if not folders:
            raise ValueError(f"must be {forms}")
        if text.startswith("~"):
            raise ValueError("begins with ~, which only a shell replaces: write the whole path")
        return text
    scheme = found[1].lower()
    if not found[2] or scheme not in schemes:
        raise ValueError(f"begins with {found[0]!r}: must be {forms}")
    url = f"{scheme}{text[len(scheme) :]}"
    _check(url, scheme)
    return url


def _check(url: str, scheme: str) -> None:
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ValueError(f"cannot be read: {error}") from None
    if parts.query or parts.fragment or "?" in url or "#" in url:
        raise ValueError("must end after the path: write ? as %3F and # as %23")
    if "@" in parts.netloc:
        raise ValueError("holds a login: credentials come from the provider's own variables (AWS_…)")
    if scheme == "memory":
        return
    if scheme == "file":
        if parts.netloc or not parts.path.startswith("/"):
            raise ValueError("must have three slashes: file:///absolute/folder")
    elif not parts.netloc:
        raise ValueError(f"names no bucket: {scheme}://bucket/prefix")
