"""The jobs of the email service."""

from datetime import UTC, datetime

from email_service import handlers
from email_service.adapters import Resources, open_resources
from email_service.errors import MailServerMisconfigured, MailServerUnavailable
from jobkit.breaker.breaker import CircuitBreaker
from jobkit.context import Context
from jobkit.contracts.email import EmailSent, SendEmail
from jobkit.errors import SendError, TransientError
from jobkit.retry import exponential
from jobkit.service import Service
from jobkit.time import minutes

service = Service("email", lifespan=open_resources)

# 14 attempts within 3.5 to 5.3 hours: outlasts greylisting (minutes) and a mail server's maintenance (an evening).
PATIENT = exponential(first=5, cap=3600, attempts=14, retry_on=(TransientError, SendError))

#: While the server does not answer, or refuses us whatever the e-mail, one at a time finds out whether it is back.
SMTP = CircuitBreaker("smtp", trips_on=(MailServerUnavailable, MailServerMisconfigured))


@service.actor(SendEmail, retry=PATIENT, time_limit=minutes(2), breaker=SMTP)
def send_email(job: SendEmail, context: Context[Resources]) -> EmailSent:
    """Render a template and send it as one e-mail."""
    return handlers.send_email(
        job,
        context.job_id,
        renderer=context.resources.renderer,
        mailer=context.resources.mailer,
        sender=context.resources.sender,
        now=datetime.now(UTC),
        follow_up=lambda rest: context.send(rest, delay=minutes(1)),
    )
