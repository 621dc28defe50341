"""Addresses as they travel, and which of them are one mailbox."""

import unicodedata
from contextlib import suppress

from email_service.settings import ascii_host
from jobkit.contracts.email import address_of


def domain_of(address: str) -> str:
    """Return what follows the "@"."""
    return address.rpartition("@")[2]


def on_the_wire(address: str) -> str:
    """Return an address with its domain in ASCII (RFC 5890): every mail server can find that.

    Raises:
        ValueError: the domain is none that can exist.
    """
    local, _, domain = address.rpartition("@")
    if domain.rpartition(".")[2].isdecimal():  # an address of a machine, which would have to be in brackets
        raise ValueError(f"{domain!r} ends in a number, and no domain does")
    return f"{local}@{ascii_host(domain)}"


def mailbox_key(address: str) -> str:
    """Return what all spellings of one mailbox have in common.

    By RFC 5321 (2.4) the case of the part before the "@" may matter. No server in use makes two mailboxes of it.
    """
    local, _, domain = address.rpartition("@")
    if local.startswith('"'):
        local = local[1:-1]
    with suppress(ValueError):  # nobody can be reached there; the one who sends will say so
        domain = ascii_host(domain)
    return f"{unicodedata.normalize('NFC', local).casefold()}@{domain.lower()}"


def once_each(mailboxes: tuple[str, ...]) -> tuple[str, ...]:
    """Return the addresses in ``mailboxes``, each mailbox once, in its first spelling."""
    found: dict[str, str] = {}
    for address in map(address_of, mailboxes):
        found.setdefault(mailbox_key(address), address)
    return tuple(found.values())
