"""Where the mail server is."""

from dataclasses import dataclass
from typing import Literal, Self, cast
from urllib.parse import unquote

from pydantic import AnyUrl, Secret, SecretStr

from email_service.settings import ascii_host

Security = Literal["smtp", "smtp+starttls", "smtps"]

#: RFC 5321 for relays, RFC 6409 for submission, RFC 8314 for implicit TLS.
DEFAULT_PORTS: dict[Security, int] = {"smtp": 25, "smtp+starttls": 587, "smtps": 465}


@dataclass(frozen=True)
class SmtpServer:
    """Where the mail server is and how to speak to it. Its repr holds no password."""

    security: Security
    host: str
    port: int
    username: str | None = None
    password: SecretStr | None = None

    @classmethod
    def from_url(cls, secret: Secret[AnyUrl]) -> Self:
        """The server of a checked EMAIL_SMTP_URL."""
        url = secret.get_secret_value()
        security = cast(Security, url.scheme)
        return cls(
            security,
            host=ascii_host(unquote(url.host or "").strip("[]")),  # smtplib takes an IPv6 address without its brackets
            port=url.port or DEFAULT_PORTS[security],
            username=unquote(url.username) if url.username is not None else None,
            password=SecretStr(unquote(url.password)) if url.password is not None else None,
        )

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"
