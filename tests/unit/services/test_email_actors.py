import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from pathlib import Path
from typing import TypeVar, cast

import pytest

from email_service.actors import TIME_LIMIT, send_email, service
from email_service.adapters import Resources
from email_service.adapters.connections import PATIENCE
from email_service.adapters.mailer import DOT_SECONDS, RECIPIENT_SECONDS, AtDot
from email_service.adapters.outcome import DOT_MARGIN
from email_service.adapters.renderer import TemplateRenderer
from email_service.adapters.rules import Rules
from email_service.adapters.session import SHORT_TIMEOUT
from email_service.errors import (
    MailServerMisconfigured,
    MailServerUnavailable,
    MessageRefused,
    OutcomeUnknown,
    QuotaReached,
    SenderDistrusted,
    StorageUnavailable,
    TooManyConnections,
)
from email_service.settings import EmailSettings
from jobkit.context import Context
from jobkit.contracts.email import Refusal, SendEmail
from jobkit.errors import BrokerUnavailable, Retry, Snooze
from jobkit.middleware.shutdown import STOP_MARGIN

T = TypeVar("T")
JOB = SendEmail(template="welcome", to=("a@example.org", "b@example.org"), variables={"name": "A", "url": "u"})


@dataclass
class Server:
    """A mailer whose server takes the e-mail for the first recipient only, or fails."""

    failure: Exception | None = None

    def send(
        self, message: EmailMessage, recipients: Sequence[str], *, at_dot: AtDot | None = None
    ) -> tuple[Refusal, ...]:
        if self.failure is not None:
            raise self.failure
        return tuple(Refusal(address=address, code=452, reason="too many recipients") for address in recipients[1:])


@dataclass
class Run:
    """As much of a ``Context`` as the actor uses."""

    resources: Resources
    job_id: str = "job-1"
    sent_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    sent: list[tuple[SendEmail, timedelta | None, str]] = field(default_factory=list)
    stored: dict[str, str] = field(default_factory=dict)

    def send(self, job: SendEmail, *, child_key: str, delay: timedelta | None = None) -> None:
        self.sent.append((job, delay, child_key))

    def remember(self, name: str, value: str) -> str:
        return self.stored.setdefault(name, value)

    def forget(self, name: str) -> None:
        self.stored.pop(name, None)

    def shielded(self, call: Callable[[], T], *, at_most: timedelta) -> T:
        return call()


def run_with(
    failure: Exception | None = None, *, rules: Rules | None = None, quota_wait: timedelta | None = None
) -> Run:
    return Run(
        Resources(
            TemplateRenderer.from_folder(None),
            Server(failure),
            "no-reply@example.com",
            rules=rules or Rules(),
            quota_wait=quota_wait or timedelta(hours=2),
        )
    )


def context(run: Run) -> Context[Resources]:
    return cast("Context[Resources]", run)


def test_a_follow_up_is_sent_as_a_job_that_waits_for_a_while() -> None:
    run = run_with()
    result = send_email(JOB, context(run))
    assert result.accepted == ("a@example.org",)
    [(follow_up, delay, _)] = run.sent
    assert follow_up.remainder is not None
    assert (follow_up.remainder.job_id, follow_up.remainder.recipients) == ("job-1", ("b@example.org",))
    assert follow_up.remainder.message_id == result.message_id
    assert delay == timedelta(minutes=1)


def test_portions_are_sent_at_once_under_keys_that_every_run_repeats() -> None:
    run = run_with(rules=Rules(portion=1))
    send_email(JOB, context(run))
    run.resources = replace(run.resources, rules=Rules(portion=2))  # somebody has changed the setting
    send_email(JOB, context(run))
    assert {(delay, key) for _, delay, key in run.sent} == {(None, "portion/b@example.org")}


def test_a_quota_that_is_used_up_waits_as_long_as_the_setting_says() -> None:
    run = run_with(QuotaReached("enough for today"), quota_wait=timedelta(hours=5))
    with pytest.raises(Retry) as retry:
        send_email(JOB, context(run))
    assert retry.value.after == timedelta(hours=5)
    assert isinstance(retry.value.__cause__, QuotaReached)


def test_a_job_without_a_connection_comes_again_soon_and_uses_up_no_attempt() -> None:
    run = run_with(TooManyConnections("enough"))
    with pytest.raises(Snooze) as snooze:
        send_email(JOB, context(run))
    assert timedelta(seconds=1) < snooze.value.after < timedelta(seconds=11)
    run.sent_at -= timedelta(days=2)
    with pytest.raises(TooManyConnections):
        send_email(JOB, context(run))


def test_what_may_pass_is_retried_for_hours_and_what_cannot_is_not_retried_at_all() -> None:
    policy = service.actors["send_email"].retry
    assert policy.retries(MailServerUnavailable("down"))
    assert policy.retries(SenderDistrusted("relay access denied"))
    assert policy.retries(BrokerUnavailable("the follow-up was not confirmed"))
    assert not policy.retries(MessageRefused("spam"))
    assert timedelta(hours=5) < policy.horizon < timedelta(hours=6)


def test_the_breaker_hears_of_the_server_alone() -> None:
    breaker = service.actors["send_email"].breaker
    assert breaker is not None
    assert breaker.trips(MailServerUnavailable("down"))
    assert breaker.trips(MailServerMisconfigured("login"))
    for silent in (OutcomeUnknown, QuotaReached, SenderDistrusted, TooManyConnections, StorageUnavailable):
        assert not breaker.trips(silent("no outage of the server"))


# Times that follow from the wait for the answer to the final dot -----------------------------------------------------


def seconds(field: str) -> float:
    return float(EmailSettings.model_fields[field].default)


def test_the_time_limit_has_room_for_a_conversation_and_the_longest_wait_for_its_end() -> None:
    assert seconds("dot_seconds") == DOT_SECONDS  # which is also the highest value of the setting
    with pytest.raises(ValueError, match="less than or equal"):
        EmailSettings(dot_seconds=DOT_SECONDS + 1)
    before = max(PATIENCE, 0) + RECIPIENT_SECONDS + seconds("timeout_seconds")
    after = DOT_MARGIN.total_seconds() + SHORT_TIMEOUT
    assert service.actors["send_email"].time_limit == TIME_LIMIT
    assert TIME_LIMIT.total_seconds() >= before + DOT_SECONDS + after


def test_a_restart_does_not_kill_a_conversation_that_is_within_its_time_limit() -> None:
    grace = timedelta(seconds=seconds("stop_grace_seconds"))
    assert service.actors["send_email"].time_limit + STOP_MARGIN <= grace


def test_the_pages_tell_the_stop_grace_of_the_setting() -> None:
    page = (Path(__file__).parents[3] / "docs/how-to/production.md").read_text(encoding="utf-8")
    grace = seconds("stop_grace_seconds")
    assert re.findall(r"TimeoutStopSec=(\d+)", page)[:1] == [f"{grace:.0f}"]
    shown = re.findall(r"dramatiq email_service.main:broker .* --worker-shutdown-timeout (\d+)", page)
    assert shown == [f"{(grace - STOP_MARGIN.total_seconds()) * 1000:.0f}"]
