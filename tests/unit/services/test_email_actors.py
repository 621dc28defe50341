from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from email.message import EmailMessage
from typing import cast

from email_service.actors import send_email, service
from email_service.adapters import Resources
from email_service.adapters.renderer import TemplateRenderer
from email_service.errors import MailServerUnavailable, MessageRefused
from email_service.settings import EmailSettings
from jobkit.context import Context
from jobkit.contracts.email import Refusal, SendEmail
from jobkit.errors import BrokerUnavailable
from jobkit.middleware.shutdown import STOP_MARGIN


class Busy:
    """A mailer whose server takes the e-mail for the first recipient only."""

    def send(self, message: EmailMessage, recipients: Sequence[str]) -> tuple[Refusal, ...]:
        return tuple(Refusal(address=address, code=452, reason="too many recipients") for address in recipients[1:])


@dataclass
class Run:
    """As much of a ``Context`` as the actor uses."""

    resources: Resources
    job_id: str = "job-1"
    sent: list[tuple[SendEmail, timedelta]] = field(default_factory=list)

    def send(self, job: SendEmail, *, delay: timedelta) -> None:
        self.sent.append((job, delay))


def test_a_follow_up_is_sent_as_a_job_that_waits_for_a_while() -> None:
    run = Run(Resources(TemplateRenderer.from_folder(None), Busy(), "no-reply@example.com"))
    job = SendEmail(template="welcome", to=("a@example.org", "b@example.org"), variables={"name": "A", "url": "u"})
    result = send_email(job, cast("Context[Resources]", run))
    assert result.accepted == ("a@example.org",)
    [(follow_up, delay)] = run.sent
    assert follow_up.remainder is not None
    assert (follow_up.remainder.job_id, follow_up.remainder.recipients) == ("job-1", ("b@example.org",))
    assert delay == timedelta(minutes=1)


def test_what_may_pass_is_retried_for_hours_and_what_cannot_is_not_retried_at_all() -> None:
    policy = service.actors["send_email"].retry
    assert policy.retries(MailServerUnavailable("down"))
    assert policy.retries(BrokerUnavailable("the follow-up was not confirmed"))
    assert not policy.retries(MessageRefused("spam"))
    assert timedelta(hours=5) < policy.horizon < timedelta(hours=6)


def test_a_restart_does_not_kill_a_conversation_that_is_within_its_time_limit() -> None:
    grace = timedelta(seconds=EmailSettings.model_fields["stop_grace_seconds"].default)
    assert service.actors["send_email"].time_limit + STOP_MARGIN <= grace
