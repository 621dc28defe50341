"""What the end of a run means: done, another attempt, later without an attempt, dead, or back to the queue.

A pure function of the failure, the policy and what the message says of its past. Whoever calls it carries it out.
"""

import logging
from dataclasses import replace
from datetime import timedelta
from enum import IntEnum
from typing import Final

import dramatiq.errors
from dramatiq.errors import RateLimitExceeded
from dramatiq.middleware import Interrupt, Shutdown, SkipMessage

from jobkit.deadletters import Reason
from jobkit.errors import (
    LONGEST_DELAY,
    OUTAGES,
    BadPayload,
    LeaseLost,
    NewerContract,
    PermanentError,
    Poison,
    Snooze,
    TransientError,
    leaves,
)
from jobkit.execution import EXCUSED_OPTION, REFUSED_OPTION, Decision, Execution, Verdict
from jobkit.patience import WorkerStopping
from jobkit.retry import RetryPolicy
from jobkit.waits import FIRST_WAIT, Limits, next_wait

log = logging.getLogger(__name__)

_REASONS: Final = (
    (Poison, Reason.POISON),
    (BadPayload, Reason.BAD_PAYLOAD),
    (NewerContract, Reason.NEWER_CONTRACT),
    (PermanentError, Reason.PERMANENT),
)


class _Severity(IntEnum):
    """The ranks of failures: of those in a group, the lowest decides."""

    LEASE_LOST = 0
    STOPPED = 1
    TIME_LIMIT = 2
    PERMANENT = 3
    NOT_RETRIED = 4
    RETRY = 5
    FAILED = 6
    OUTAGE = 7
    SNOOZE = 8


#: The first that fits counts: an interrupt is none of the more special ones above it.
_SEVERITIES: Final[tuple[tuple[tuple[type[BaseException], ...], _Severity], ...]] = (
    ((LeaseLost,), _Severity.LEASE_LOST),
    ((Shutdown, WorkerStopping, SkipMessage), _Severity.STOPPED),
    ((Interrupt,), _Severity.TIME_LIMIT),
    ((PermanentError,), _Severity.PERMANENT),
    ((*OUTAGES, RateLimitExceeded), _Severity.OUTAGE),
    ((Snooze,), _Severity.SNOOZE),
    ((dramatiq.errors.Retry,), _Severity.RETRY),
)


def decide(
    execution: Execution,
    error: BaseException | None,
    policy: RetryPolicy,
    limits: Limits,
    excused_for: timedelta | None = None,
) -> Decision:
    """Return what follows from a run that ended with ``error``. In a group, the most severe failure decides.

    Args:
        execution: The delivery that was run.
        error: None if the job has returned.
        policy: The actor's.
        limits: Of waits that use up no attempt.
        excused_for: The failure is not the job's own, as its breaker knows: it runs again after this.
    """
    if error is None:
        return Decision(Verdict.COMPLETED)
    try:
        decision = _decide(execution, error, policy, limits, excused_for)
    except BaseException:  # the failure is somebody's class, and its attributes may raise anything
        log.exception("what follows from a failure could not be decided, so it counts as an attempt")
        decision = Decision(Verdict.RETRIED, FIRST_WAIT, shown=error)
        if execution.attempt >= policy.attempts:
            decision = Decision(Verdict.DIED, reason=Reason.EXHAUSTED, shown=error)
    return replace(decision, error=error)


def _decide(
    execution: Execution, error: BaseException, policy: RetryPolicy, limits: Limits, excused_for: timedelta | None
) -> Decision:
    one = min(leaves(error), key=lambda leaf: _severity(leaf, policy))
    shown = cause_of(one)
    match _severity(one, policy):
        case _Severity.LEASE_LOST | _Severity.STOPPED:
            return Decision(Verdict.HANDED_BACK, shown=shown)
        case _Severity.PERMANENT | _Severity.NOT_RETRIED:
            wait = next_wait(execution.message.options, REFUSED_OPTION, limits.rollout)
            if isinstance(one, NewerContract) and wait is not None:
                return Decision(Verdict.SNOOZED, wait.delay, shown=shown, options=wait.options)
            reason = next((reason for kind, reason in _REASONS if isinstance(one, kind)), Reason.NOT_RETRIED)
            return Decision(Verdict.DIED, reason=reason, shown=shown)
        case _Severity.OUTAGE:
            excuse = _excuse(execution, one, policy, limits)
            if excuse is not None:
                return excuse
        case _Severity.SNOOZE:
            return Decision(Verdict.SNOOZED, max(_asked(leaf) for leaf in leaves(error)), shown=shown)
    if excused_for is not None and policy.attempts > 1:
        return Decision(Verdict.SNOOZED, excused_for, shown=shown)
    if execution.attempt >= policy.attempts:
        return Decision(Verdict.DIED, reason=Reason.EXHAUSTED, shown=shown)
    delay = max(_wait(leaf, execution.attempt, policy, limits) for leaf in leaves(error))
    return Decision(Verdict.RETRIED, delay, shown=shown)


def cause_of(error: BaseException) -> BaseException:
    """Return what a ``Retry`` was raised for; any other exception is its own cause."""
    if isinstance(error, dramatiq.errors.Retry) and not isinstance(error, Snooze) and error.__cause__ is not None:
        return error.__cause__
    return error


def _severity(error: BaseException, policy: RetryPolicy) -> _Severity:
    for kinds, severity in _SEVERITIES:
        if isinstance(error, kinds):
            return severity
    return _Severity.FAILED if policy.retries(error) else _Severity.NOT_RETRIED


def _excuse(execution: Execution, error: BaseException, policy: RetryPolicy, limits: Limits) -> Decision | None:
    """Return the wait of a job that met an outage, or a limiter of Dramatiq's; None once it has to use up attempts."""
    if isinstance(error, RateLimitExceeded):
        return Decision(Verdict.SNOOZED, policy.delay(execution.attempt, error), shown=error)
    wait = next_wait(execution.message.options, EXCUSED_OPTION, limits.excuse)
    # A policy of one attempt means that nothing is done again, whoever is to blame.
    if policy.attempts == 1 or wait is None:
        return None
    return Decision(Verdict.SNOOZED, wait.delay, shown=error, options=wait.options)


def _wait(error: BaseException, attempt: int, policy: RetryPolicy, limits: Limits) -> timedelta:
    if isinstance(error, dramatiq.errors.Retry):
        return _asked(error) if error.delay is not None else policy.delay(attempt, error)
    if isinstance(error, TransientError) and error.retry_after is not None:
        return min(error.retry_after, limits.retry_after)
    return policy.delay(attempt, error)


def _asked(error: BaseException) -> timedelta:
    """Return the delay that a ``Snooze`` or a ``Retry``, ours or Dramatiq's, asks for."""
    after = getattr(error, "after", None)
    if isinstance(after, timedelta):
        return after
    milliseconds = getattr(error, "delay", None) or 0
    return min(max(timedelta(), timedelta(milliseconds=milliseconds)), LONGEST_DELAY)
