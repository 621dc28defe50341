"""The settings of the email service."""

import re
from ipaddress import ip_address
from typing import Annotated, Final, Self
from urllib.parse import unquote

import idna
from pydantic import (
    AnyUrl,
    DirectoryPath,
    Field,
    FilePath,
    Secret,
    TypeAdapter,
    UrlConstraints,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import SettingsConfigDict

from jobkit.addresses.storage import storage_url
from jobkit.contracts.email import Address, HeaderName, Mailbox, address_of
from jobkit.settings import DEVELOPMENT_ONLY, ServiceSettings

SmtpUrl = Annotated[AnyUrl, UrlConstraints(allowed_schemes=["smtp", "smtps", "smtp+starttls"], host_required=True)]

_LABEL: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")


def ascii_host(host: str) -> str:
    """Return a host name in ASCII (RFC 5890), or an IP address as it is.

    Raises:
        ValueError: no host can have that name.
    """
    try:
        name = host if host.isascii() else idna.encode(host, uts46=True).decode()
    except idna.IDNAError as error:
        raise ValueError(f"{host!r} is no name of a host: {error}") from error
    labels = name.removesuffix(".").split(".")
    if ":" in name or labels[-1].isdecimal():
        ip_address(name)  # raises ValueError
    elif len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError(f"{host!r} is no name of a host")
    return name


class EmailSettings(ServiceSettings):
    """Which mail server takes the e-mails, who they are from and what they look like."""

    model_config = SettingsConfigDict(env_prefix="EMAIL_")

    stop_grace_seconds: int = Field(
        default=840,
        ge=5,
        le=7200,
        description="Seconds from SIGTERM to SIGKILL: the time limit of 810 and some to record. A worker without jobs "
        "stops at once.",
    )
    smtp_url: Secret[SmtpUrl] = Field(
        default=Secret(AnyUrl("smtp://127.0.0.1:1025")),
        json_schema_extra=DEVELOPMENT_ONLY,
        description=(
            "The mail server: smtp://, smtp+starttls:// (587 unless a port is given) or smtps:// (465), with "
            "user:password@ before the host if it asks for them, percent-encoded. The default is a mail catcher's port."
        ),
    )
    access_token_path: FilePath | None = Field(
        default=None,
        description="File with an OAuth 2 access token, for a login by XOAUTH2 as the user of EMAIL_SMTP_URL, which "
        "needs no password then. It is read at each login, so that another program can renew it.",
    )
    sender: Mailbox = Field(
        default="no-reply@example.com",
        json_schema_extra=DEVELOPMENT_ONLY,
        description="Who an e-mail is from whose job does not say: an address, or Name <address>. Its domain ends each "
        "Message-ID.",
    )
    senders: str = Field(
        default="",
        description="Further addresses that a job may send from, separated by commas; @example.com allows a domain.",
    )
    envelope_sender: Address | None = Field(
        default=None, description="Address that bounces go to. Not set: the sender."
    )
    headers: str = Field(
        default="", description="Headers that a job may set, separated by commas: X-Campaign,X-Tenant."
    )
    timeout_seconds: float = Field(
        default=30.0,
        gt=0,
        le=60,
        description="Seconds to wait for the connection and for each answer but the last.",
    )
    dot_seconds: float = Field(
        default=600.0,
        gt=0,
        le=600,
        description="Seconds to wait for the answer to the end of the message, from which on the server may have taken "
        "it (RFC 5321, 4.5.3.2.6).",
    )
    unknown_wait_seconds: float = Field(
        default=3600.0,
        ge=1,
        le=86_400,
        description="Seconds until an e-mail is sent once more to which that answer did not come. After the second "
        "time the job is done, and its result names the recipients as unknown.",
    )
    quota_wait_seconds: float = Field(
        default=7200.0,
        ge=1,
        le=86_400,
        description="Seconds that a job waits, 13 times at most, when the server says that the quota of a day or an "
        "hour is used up.",
    )
    portion: int = Field(
        default=100,
        ge=1,
        le=100,
        description="Recipients of one conversation with the server; longer lists are divided among jobs. Every server "
        "takes 100 (RFC 5321, 4.5.3.1.8).",
    )
    connections: int = Field(
        default=4, ge=1, le=256, description="Connections to the server at a time, in each process. More jobs wait."
    )
    mails_per_connection: int = Field(
        default=50, ge=1, le=1000, description="E-mails over one connection; then another one is opened."
    )
    templates: DirectoryPath | None = Field(
        default=None,
        description="Folder with one folder per template, in place of those in the package.",
    )
    storage_url: str | None = Field(
        default=None,
        description="Where attachments are read: a URL (file:///…, s3://bucket/prefix, gs://…, az://…) or a folder. "
        "Credentials for S3 come from the usual AWS_… variables.",
    )
    max_attachment_bytes: int = Field(
        default=10 * 1024 * 1024,
        ge=1,
        le=100 * 1024 * 1024,
        description="Bytes of all attachments of one e-mail, refused before they are read. A thread holds them some "
        "five times while it sends.",
    )
    suppressions: FilePath | None = Field(
        default=None,
        description="File with the addresses that nobody may write to, one a line; @example.org holds a domain. It is "
        "read again when it has changed.",
    )

    @property
    def allowed_senders(self) -> frozenset[str]:
        """What EMAIL_SENDERS holds."""
        return frozenset(_listed(self.senders))

    @property
    def allowed_headers(self) -> frozenset[str]:
        """What EMAIL_HEADERS holds, in lower case."""
        return frozenset(name.lower() for name in _listed(self.headers))

    @field_validator("smtp_url")
    @classmethod
    def _nothing_but_a_server(cls, secret: Secret[AnyUrl]) -> Secret[AnyUrl]:
        url = secret.get_secret_value()
        # An unescaped "/", "?" or "#" in a password ends the host early, and would send mail to another machine.
        if url.path not in (None, "", "/") or url.query is not None or url.fragment is not None:
            raise ValueError("must end after the host and port; percent-encode special characters in the password")
        if not unquote(f"{url.username}{url.password}").isascii():
            raise ValueError("must hold a user and a password of ASCII characters, since smtplib sends no others")
        if url.port == 0:
            raise ValueError("names port 0, at which no server can be")
        try:
            ascii_host(unquote(url.host or "").strip("[]"))
        except ValueError:
            raise ValueError("names a host that cannot exist") from None
        return secret

    @model_validator(mode="after")
    def _login_is_whole(self) -> Self:
        url = self.smtp_url.get_secret_value()
        if self.access_token_path is not None:
            if url.username is None:
                raise ValueError("EMAIL_ACCESS_TOKEN_PATH: a token is of a user, whom EMAIL_SMTP_URL has to name")
        elif (url.username is None) != (url.password is None):
            raise ValueError("EMAIL_SMTP_URL: must hold both a user and a password, or neither")
        return self

    @field_validator("sender", "envelope_sender")
    @classmethod
    def _every_server_takes_it(cls, mailbox: str | None) -> str | None:
        if mailbox is not None and not address_of(mailbox).isascii():
            raise ValueError("must be ASCII, since not every mail server takes others; write the domain as xn--…")
        return mailbox

    @field_validator("senders")
    @classmethod
    def _addresses_or_domains(cls, text: str) -> str:
        for one in _listed(text):
            try:
                TypeAdapter(Address).validate_python(f"any{one}" if one.startswith("@") else one)
            except ValidationError:
                raise ValueError(f"holds {one!r}, which is neither an address nor @ and a domain") from None
            cls._every_server_takes_it(one)
        return text

    @field_validator("headers")
    @classmethod
    def _own_headers(cls, text: str) -> str:
        for one in _listed(text):
            try:
                TypeAdapter(HeaderName).validate_python(one)
            except ValidationError:
                raise ValueError(f"holds {one!r}, which does not begin with X-") from None
        return text

    @field_validator("storage_url")
    @classmethod
    def _storage_is_usable(cls, value: str | None) -> str | None:
        schemes = ("file", "s3", "gs", "az", "memory")
        return None if value is None else storage_url(value, schemes=schemes)


def _listed(text: str) -> list[str]:
    return [one for one in map(str.strip, text.split(",")) if one]
