"""What an error of TLS means, and what to do about it: the same for RabbitMQ and for Redis."""

import ssl
from typing import Final

#: OpenSSL's reasons for an answer that is no TLS; they differ between its versions.
_NOT_TLS: Final = frozenset({"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "UNKNOWN_PROTOCOL"})


def needs_a_person(error: ssl.SSLError) -> bool:
    """Return whether waiting cannot help: the certificate is refused, or what answers does not speak TLS."""
    return isinstance(error, ssl.SSLCertVerificationError) or error.reason in _NOT_TLS


def advice(error: ssl.SSLError, *, ca: str, plain: str) -> str:
    """Return what is wrong and what to do, for the end of a line.

    Args:
        error: What OpenSSL has said.
        ca: How the address names the file of an authority.
        plain: What to check if TLS is not spoken there.
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        words = error.verify_message
        if "mismatch" in words.lower() or "not valid for" in words.lower():
            return f"its certificate is for another host name ({words}). Use a name that is in the certificate"
        return f"its certificate is not trusted ({words}). Name the file of the CA: {ca}. Or renew the certificate"
    if error.reason in _NOT_TLS:
        return f"what answers there does not speak TLS ({error.reason}). {plain}"
    return f"{error.reason or error}. Check port, protocol versions and client certificate"
