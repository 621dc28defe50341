"""Sending one e-mail: plain functions that know no queue."""

import hashlib
import unicodedata
from collections.abc import Callable
from datetime import datetime
from email import policy
from email.message import EmailMessage

from email_service.adapters.mailer import Mailer
from email_service.adapters.renderer import Rendered, Renderer
from email_service.errors import TemplateFailed
from jobkit.contracts.email import EmailSent, Remainder, SendEmail

# 7bit: whatever the server announces, only ASCII goes over the wire (headers with SMTPUTF8 apart).
_ASCII = policy.SMTP.clone(cte_type="7bit")
_INTERNATIONAL = policy.SMTPUTF8.clone(cte_type="7bit")


def send_email(
    job: SendEmail,
    job_id: str,
    *,
    renderer: Renderer,
    mailer: Mailer,
    sender: str,
    now: datetime,
    follow_up: Callable[[SendEmail], object],
) -> EmailSent:
    """Render the e-mail and hand it to the mail server.

    Once the server has taken it for one recipient it cannot be called back, so this succeeds. Those refused for good
    are named in the result; for those refused for now ``follow_up`` gets a job that reaches them alone, under the same
    Message-ID. Nobody who has a copy is sent another one on their account.

    Raises:
        PermanentError: the template, the variables, the addresses or the message can never be sent.
        TransientError: nobody has got it, and it may work later.
    """
    first_job = job.remainder.job_id if job.remainder else job_id
    recipients = tuple(dict.fromkeys(job.remainder.recipients if job.remainder else (*job.to, *job.cc)))
    message = build_message(
        job,
        renderer.render(job.template, job.variables),
        sender=sender,
        now=now,
        message_id=message_id(first_job, sender),
    )
    refusals = mailer.send(message, recipients)
    refused = tuple(r for r in refusals if 500 <= r.code < 600)
    deferred = tuple(r for r in refusals if r not in refused)
    if deferred:
        rest = Remainder(job_id=first_job, recipients=tuple(r.address for r in deferred))
        follow_up(job.model_copy(update={"remainder": rest}))
    without = {r.address for r in refusals}
    return EmailSent(
        message_id=message["Message-ID"],
        accepted=tuple(address for address in recipients if address not in without),
        refused=refused,
        deferred=deferred,
    )


def message_id(job_id: str, sender: str) -> str:
    """The same for every run of a job, so that a mailbox can tell a second copy from a second e-mail.

    A digest, since a job's id or key may hold what recipients should not read or a header must not contain.
    """
    return f"<{hashlib.sha256(job_id.encode()).hexdigest()[:40]}@{sender.partition('@')[2]}>"


def build_message(job: SendEmail, rendered: Rendered, *, sender: str, now: datetime, message_id: str) -> EmailMessage:
    """The e-mail as it travels: a text and an HTML alternative (RFC 2046, 5.1.4), and the headers a good sender sets.

    Raises:
        TemplateFailed: the subject cannot be a header.
        ValueError: another header value holds a line break (``email.policy``): the second lock, after the contract's.
    """
    addresses = (sender, *job.to, *job.cc, job.reply_to or "")
    message = EmailMessage(policy=_ASCII if all(a.isascii() for a in addresses) else _INTERNATIONAL)
    message["From"] = sender
    message["To"] = ", ".join(job.to)
    if job.cc:
        message["Cc"] = ", ".join(job.cc)
    if job.reply_to:
        message["Reply-To"] = job.reply_to
    message["Subject"] = one_line(rendered.subject)
    message["Date"] = now
    message["Message-ID"] = message_id
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no out-of-office notes in return, please
    message.set_content(rendered.text, cte="quoted-printable")
    message.add_alternative(rendered.html, subtype="html", cte="quoted-printable")
    return message


def one_line(subject: str) -> str:
    """The subject, if it can be a header as it is.

    Raises:
        TemplateFailed: it is empty; it holds a control character or another kind of line break; or it holds "=?", the
            start of an encoded word (RFC 2047). Python decodes such a word when the header is set, and versions before
            3.11.10 and 3.12.5 (CVE-2024-6923) then write the line breaks inside it as they are: a header of its own.
    """
    if not subject:
        raise TemplateFailed("the subject is empty")
    bad = next((c for c in subject if unicodedata.category(c) in ("Cc", "Zl", "Zp")), None)
    if bad is not None:
        raise TemplateFailed(f"the subject holds {bad!a}, but must be one line without control characters")
    if "=?" in subject:
        raise TemplateFailed("the subject holds '=?', which begins an encoded word and could hide a line break")
    return subject
