"""Sending one e-mail: plain functions that know no queue."""

import hashlib
from collections.abc import Callable, Container, Sequence
from datetime import datetime
from email.message import EmailMessage

from pydantic import JsonValue

from email_service.adapters.addresses import domain_of, on_the_wire, once_each
from email_service.adapters.attachments import Attachments
from email_service.adapters.mailer import Mailer
from email_service.adapters.message import AttachedFile, build_message, header_text, one_line
from email_service.adapters.outcome import FinalDot, Marks, Outcome
from email_service.adapters.renderer import Renderer
from email_service.adapters.replies import may_pass
from email_service.adapters.rules import Rules
from email_service.errors import AddressNotSupported, AttachmentUnusable, OutcomeUnknown, Suppressed
from jobkit.contracts.email import EmailSent, Refusal, Remainder, SendEmail, address_of
from jobkit.errors import JobkitError

__all__ = ["Rules", "build_message", "header_text", "message_id", "one_line", "send_email"]


def send_email(
    job: SendEmail,
    job_id: str,
    *,
    renderer: Renderer,
    mailer: Mailer,
    sender: str,
    now: datetime,
    follow_up: Callable[[SendEmail], object],
    next_portion: Callable[[SendEmail], object] | None = None,
    sent_at: datetime | None = None,
    marks: Marks | None = None,
    rules: Rules | None = None,
    attachments: Attachments | None = None,
    suppressed: Container[str] = (),
) -> EmailSent:
    """Render the e-mail and hand it to the mail server.

    Once the server has taken it for one recipient it cannot be called back, so this succeeds. Those refused for good
    are named in the result; for those refused for now ``follow_up`` gets a job that reaches them alone, under the same
    Message-ID. Nobody who has a copy is sent another one on their account.

    Args:
        job: The e-mail.
        job_id: The job's id; with ``sent_at`` it makes the Message-ID.
        renderer: Makes its subject and bodies.
        mailer: Hands it over.
        sender: Who it is from, if the job does not say.
        now: Its date.
        follow_up: Sends a job for recipients who were refused for now.
        next_portion: Sends a job for a further portion of many recipients. None: ``follow_up``.
        sent_at: When the job was sent.
        marks: The job's record, by which a later run knows how far this one came. None: no later run knows.
        rules: What the settings say.
        attachments: Reads what is attached.
        suppressed: Addresses that nobody should write to.

    Raises:
        PermanentError: the template, the variables, the addresses or the message can never be sent.
        TransientError: nobody has got it, and it may work later.
        Snooze: whether somebody has got it is unknown, and the job waits before it sends the e-mail once more.
    """
    rules = rules or Rules()
    rules.check_headers(job)
    from_ = rules.sender_of(job, sender)
    first = job.remainder or Remainder(
        job_id=job_id, recipients=once_each((*job.to, *job.cc, *job.bcc)), message_id=message_id(job_id, from_, sent_at)
    )
    if first.message_id is None:  # of a job that an earlier version sent
        first = first.model_copy(update={"message_id": message_id(first.job_id, from_)})
    portions = _portions(once_each(first.recipients), rules.portion, marks)
    dot = FinalDot(marks, wait=rules.dot_wait, again_after=rules.again_after) if marks is not None else None
    outcome = dot.earlier() if dot is not None else None
    for portion in portions[1:]:  # before this one, whose end says nothing about the others
        rest = first.model_copy(update={"recipients": portion})
        (next_portion or follow_up)(job.model_copy(update={"remainder": rest}))
    reachable, refusals = _sorted_out(portions[0], suppressed)
    if outcome is None:
        if not reachable:
            raise _nobody(refusals)
        message = build_message(
            job,
            renderer.render(renderer.variant(job.template, job.language), _variables(job)),
            sender=from_,
            now=now,
            message_id=str(first.message_id),
            files=_read(job, attachments),
        )
        outcome = _hand_over(mailer, message, list(reachable), dot)
    return _result(job, first, outcome, portions[0], refusals, follow_up, len(portions))


def message_id(job_id: str, sender: str, sent_at: datetime | None = None) -> str:
    """The same for every run of a job, so that a mailbox can tell a second copy from a second e-mail.

    It follows from the job's id and the moment at which it was sent, since a key may be used again for another e-mail.
    A digest, since a job's id or key may hold what recipients should not read or a header must not contain.
    """
    told = job_id if sent_at is None else f"{job_id}\n{round(sent_at.timestamp() * 1000)}"
    domain = domain_of(on_the_wire(address_of(sender)))
    return f"<{hashlib.sha256(told.encode()).hexdigest()[:40]}@{domain}>"


def _variables(job: SendEmail) -> dict[str, JsonValue]:
    return {**({"language": job.language} if job.language else {}), **job.variables}


def _sorted_out(recipients: Sequence[str], suppressed: Container[str]) -> tuple[dict[str, str], tuple[Refusal, ...]]:
    """Return those who can be written to, by the form of their address that travels, and why the others cannot."""
    reachable: dict[str, str] = {}
    refusals = []
    for address in recipients:
        if address in suppressed:
            refusals.append(Refusal(address=address, code=550, reason="5.7.1 it is on the suppression list"))
            continue
        try:
            reachable[on_the_wire(address)] = address
        except ValueError as error:
            refusals.append(Refusal(address=address, code=553, reason=f"5.1.2 {error}"))
    return reachable, tuple(refusals)


def _nobody(refusals: Sequence[Refusal]) -> JobkitError:
    first = refusals[0]
    kind = Suppressed if any(one.code == 550 for one in refusals) else AddressNotSupported
    return kind(f"nobody can be written to: {first.address}: {first.reason}")


def _portions(addresses: tuple[str, ...], size: int, marks: Marks | None) -> list[tuple[str, ...]]:
    """Return the recipients in portions: the same in every run, though a setting may change in between.

    They hold those on the suppression list, too, which may change as well: each portion is a job that looks for itself.
    """
    if len(addresses) > 1 and marks is not None:
        size = int(marks.remember("portion", str(size)))
    return [addresses[start : start + size] for start in range(0, len(addresses), size)]


def _read(job: SendEmail, attachments: Attachments | None) -> tuple[AttachedFile, ...]:
    if not job.attachments:
        return ()
    if attachments is None:
        raise AttachmentUnusable("there is no storage for attachments")
    return attachments.read(job.attachments)


def _hand_over(mailer: Mailer, message: EmailMessage, recipients: list[str], dot: FinalDot | None) -> Outcome:
    if dot is None:
        refusals = mailer.send(message, recipients)
    else:
        try:
            refusals = mailer.send(message, recipients, at_dot=dot)
        except OutcomeUnknown:
            return dot.after_silence()
    without = {one.address for one in refusals}
    return Outcome(at=0.0, accepted=tuple(one for one in recipients if one not in without), refusals=refusals)


def _result(
    job: SendEmail,
    first: Remainder,
    outcome: Outcome,
    addresses: tuple[str, ...],
    refusals: tuple[Refusal, ...],
    follow_up: Callable[[SendEmail], object],
    portions: int,
) -> EmailSent:
    spelled, _ = _sorted_out(addresses, ())
    told = [one.model_copy(update={"address": spelled.get(one.address, one.address)}) for one in outcome.refusals]
    had = tuple(spelled.get(one, one) for one in outcome.accepted)
    known = {*had, *(one.address for one in told)}  # of an earlier run, to whom the suppression list was another one
    deferred = tuple(one for one in told if may_pass(one.code, one.reason))
    if deferred:
        rest = first.model_copy(update={"recipients": tuple(one.address for one in deferred)})
        follow_up(job.model_copy(update={"remainder": rest}))
    return EmailSent(
        message_id=str(first.message_id),
        accepted=had if outcome.known else (),
        refused=(*(one for one in refusals if one.address not in known), *(one for one in told if one not in deferred)),
        deferred=deferred,
        unknown=() if outcome.known else had,
        portions=portions,
    )
