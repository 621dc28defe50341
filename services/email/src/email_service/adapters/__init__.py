"""The outside world of the email service: a folder of templates, a mail server and a storage of attachments."""

from collections.abc import Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

from email_service.adapters.addresses import domain_of
from email_service.adapters.attachments import Attachments, StoredAttachments, open_store
from email_service.adapters.mailer import Mailer, SmtpMailer
from email_service.adapters.renderer import Renderer, TemplateRenderer
from email_service.adapters.rules import Rules
from email_service.adapters.server import SmtpServer
from email_service.adapters.suppressions import SuppressionList
from email_service.settings import EmailSettings
from jobkit.contracts.email import address_of

__all__ = ["Mailer", "Renderer", "Resources", "open_resources"]


@dataclass(frozen=True)
class Resources:
    """What the handlers of one worker process share; safe to use from all its threads."""

    renderer: Renderer
    mailer: Mailer
    sender: str
    rules: Rules = field(default_factory=Rules)
    quota_wait: timedelta = timedelta(hours=2)
    attachments: Attachments | None = None
    suppressed: Container[str] = ()


@contextmanager
def open_resources(settings: EmailSettings) -> Iterator[Resources]:
    """Build the adapters. Connects to nothing: a mail server that is down must not stop the worker.

    Raises:
        SettingsError: the folder of templates holds none, or the storage cannot be opened.
    """
    mailer = SmtpMailer(
        SmtpServer.from_url(settings.smtp_url),
        host_name=domain_of(address_of(settings.sender)),
        timeout_seconds=settings.timeout_seconds,
        dot_seconds=settings.dot_seconds,
        envelope_sender=settings.envelope_sender,
        access_token=settings.access_token_path,
        most_connections=settings.connections,
        mails_per_connection=settings.mails_per_connection,
        usual_sender=settings.envelope_sender or address_of(settings.sender),
    )
    try:
        yield Resources(
            renderer=TemplateRenderer.from_folder(settings.templates),
            mailer=mailer,
            sender=settings.sender,
            rules=Rules(
                senders=settings.allowed_senders,
                headers=settings.allowed_headers,
                portion=settings.portion,
                dot_wait=timedelta(seconds=settings.dot_seconds),
                again_after=timedelta(seconds=settings.unknown_wait_seconds),
            ),
            quota_wait=timedelta(seconds=settings.quota_wait_seconds),
            attachments=StoredAttachments(open_store(settings.storage_url), max_bytes=settings.max_attachment_bytes),
            suppressed=SuppressionList(settings.suppressions),
        )
    finally:
        mailer.close()
