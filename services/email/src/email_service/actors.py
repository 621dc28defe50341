"""The jobs of the email service."""

import random
from datetime import UTC, datetime, timedelta

from email_service import handlers
from email_service.adapters import Resources, open_resources
from email_service.adapters.mailer import DOT_SECONDS
from email_service.errors import MailServerMisconfigured, MailServerUnavailable, QuotaReached, TooManyConnections
from jobkit.breaker.breaker import CircuitBreaker
from jobkit.context import Context
from jobkit.contracts.email import EmailSent, SendEmail
from jobkit.errors import Retry, SendError, Snooze, TransientError
from jobkit.retry import exponential
from jobkit.service import Service
from jobkit.time import minutes

service = Service("email", lifespan=open_resources)

# 14 attempts within 3.5 to 5.3 hours: outlasts greylisting (minutes) and a mail server's maintenance (an evening).
PATIENT = exponential(first=5, cap=3600, attempts=14, retry_on=(TransientError, SendError))

#: While the server does not answer, or refuses us whatever the e-mail, one at a time finds out whether it is back.
SMTP = CircuitBreaker("smtp", trips_on=(MailServerUnavailable, MailServerMisconfigured))

#: For everything before the final dot, then the longest wait for its answer, then some to record and to say good-bye.
TIME_LIMIT = timedelta(seconds=180) + timedelta(seconds=DOT_SECONDS) + timedelta(seconds=30)

#: Seconds, at random: how soon a job comes again for which there was no connection.
_SOON = (2.0, 10.0)

#: Jobs that found no connection for so long use up attempts.
_EXCUSED = timedelta(days=1)


@service.actor(SendEmail, retry=PATIENT, time_limit=TIME_LIMIT, breaker=SMTP)
def send_email(job: SendEmail, context: Context[Resources]) -> EmailSent:
    """Render a template and send it as one e-mail."""
    resources = context.resources
    now = datetime.now(UTC)
    try:
        return handlers.send_email(
            job,
            context.job_id,
            renderer=resources.renderer,
            mailer=resources.mailer,
            sender=resources.sender,
            now=now,
            follow_up=lambda rest: context.send(rest, delay=minutes(1), child_key="deferred"),
            next_portion=lambda rest: context.send(rest, child_key=_portion(rest)),
            sent_at=context.sent_at,
            marks=context,
            rules=resources.rules,
            attachments=resources.attachments,
            suppressed=resources.suppressed,
        )
    except QuotaReached as quota:
        raise Retry(resources.quota_wait, quota) from quota
    except TooManyConnections as busy:
        if now - context.sent_at > _EXCUSED:
            raise
        raise Snooze(random.uniform(*_SOON), str(busy)) from busy  # noqa: S311  jitter, not a secret


def _portion(rest: SendEmail) -> str:
    """A portion's name: no two of one job begin with the same recipient."""
    return f"portion/{rest.remainder.recipients[0]}" if rest.remainder else "portion"
