"""The settings of the email service."""

from typing import Annotated
from urllib.parse import unquote

from pydantic import AnyUrl, DirectoryPath, Field, Secret, UrlConstraints, field_validator
from pydantic_settings import SettingsConfigDict

from jobkit.contracts.email import Address
from jobkit.settings import DEVELOPMENT_ONLY, ServiceSettings

SmtpUrl = Annotated[AnyUrl, UrlConstraints(allowed_schemes=["smtp", "smtps", "smtp+starttls"], host_required=True)]


class EmailSettings(ServiceSettings):
    """Which mail server takes the e-mails, who they are from and what they look like."""

    model_config = SettingsConfigDict(env_prefix="EMAIL_")

    stop_grace_seconds: int = Field(
        default=150,
        ge=5,
        le=7200,
        description="Seconds from SIGTERM to SIGKILL: the time limit of 120 and some to record.",
    )
    smtp_url: Secret[SmtpUrl] = Field(
        default=Secret(AnyUrl("smtp://127.0.0.1:1025")),
        json_schema_extra=DEVELOPMENT_ONLY,
        description=(
            "The mail server: smtp://, smtp+starttls:// (587 unless a port is given) or smtps:// (465), with "
            "user:password@ before the host if it asks for them, percent-encoded. The default is a mail catcher's port."
        ),
    )
    sender: Address = Field(
        default="no-reply@example.com",
        json_schema_extra=DEVELOPMENT_ONLY,
        description="Address that every e-mail is from and that bounces go to; its domain ends each Message-ID.",
    )
    timeout_seconds: float = Field(
        default=30.0,
        gt=0,
        le=60,
        description=(
            "Seconds to wait for the connection and for each answer. A server that takes the e-mail after we "
            "hang up makes the retry a second copy (RFC 5321, 4.5.3.2.6); above 60 the time limit would do the same."
        ),
    )
    templates: DirectoryPath | None = Field(
        default=None,
        description="Folder with one folder per template, in place of those in the package.",
    )

    @field_validator("smtp_url")
    @classmethod
    def _nothing_but_a_server(cls, secret: Secret[AnyUrl]) -> Secret[AnyUrl]:
        url = secret.get_secret_value()
        # An unescaped "/", "?" or "#" in a password ends the host early, and would send mail to another machine.
        if url.path not in (None, "", "/") or url.query is not None or url.fragment is not None:
            raise ValueError("must end after the host and port; percent-encode special characters in the password")
        if (url.username is None) != (url.password is None):
            raise ValueError("must hold both a user and a password, or neither")
        if not unquote(f"{url.username}{url.password}").isascii():
            raise ValueError("must hold a user and a password of ASCII characters, since smtplib sends no others")
        return secret

    @field_validator("sender")
    @classmethod
    def _every_server_takes_it(cls, address: str) -> str:
        if not address.isascii():
            raise ValueError("must be ASCII, since not every mail server takes others; write the domain as xn--…")
        return address
