"""The outside world of the email service: a folder of templates and a mail server."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from email_service.adapters.mailer import Mailer, SmtpMailer
from email_service.adapters.renderer import Renderer, TemplateRenderer
from email_service.adapters.server import SmtpServer
from email_service.settings import EmailSettings

__all__ = ["Mailer", "Renderer", "Resources", "open_resources"]


@dataclass(frozen=True)
class Resources:
    """What the handlers of one worker process share; safe to use from all its threads."""

    renderer: Renderer
    mailer: Mailer
    sender: str


@contextmanager
def open_resources(settings: EmailSettings) -> Iterator[Resources]:
    """Build the adapters. Connects to nothing: a mail server that is down must not stop the worker.

    Raises:
        SettingsError: the folder of templates holds none.
    """
    server = SmtpServer.from_url(settings.smtp_url)
    host_name = settings.sender.partition("@")[2]
    yield Resources(
        renderer=TemplateRenderer.from_folder(settings.templates),
        mailer=SmtpMailer(server, host_name=host_name, timeout_seconds=settings.timeout_seconds),
        sender=settings.sender,
    )
