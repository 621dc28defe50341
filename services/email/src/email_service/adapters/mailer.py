"""The mail server: one SMTP conversation for each e-mail, its answers told apart into give up and try again."""

import contextlib
import re
import selectors
import smtplib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from email.message import EmailMessage
from email.policy import EmailPolicy
from pathlib import Path
from typing import Final, Protocol

from email_service.adapters.addresses import domain_of, mailbox_key
from email_service.adapters.connections import Connections
from email_service.adapters.message import downgraded
from email_service.adapters.replies import Verdict, plain, verdict_on
from email_service.adapters.server import SmtpServer
from email_service.adapters.session import MAX_REASON, SHORT_TIMEOUT, Dialler, Session
from email_service.errors import (
    AddressNotSupported,
    MailServerMisconfigured,
    MailServerUnavailable,
    MessageDeferred,
    MessageRefused,
    OutcomeUnknown,
    QuotaReached,
    SenderDistrusted,
    TooManyConnections,
)
from jobkit.contracts.email import Refusal
from jobkit.errors import JobkitError

#: Seconds that the answer to the final dot may take (RFC 5321, 4.5.3.2.6). A server scans and delivers meanwhile.
DOT_SECONDS: Final = 600.0

#: Seconds for the questions who may be sent to. Those who were not asked get the e-mail from a further job.
RECIPIENT_SECONDS: Final = 90.0

#: Recipient domains with which a server has to refuse us, and none accepted meanwhile, until it counts as our fault.
DISTRUSTING_DOMAINS: Final = 5

_BLOCK: Final = 64 * 1024

Reply = tuple[int, str]


class AtDot(Protocol):
    """Surrounds the final dot, from which on the server may have taken the e-mail."""

    def __call__(self, finish: Callable[[], Reply], accepted: Sequence[str], refusals: Sequence[Refusal]) -> Reply:
        """Call ``finish`` once, which sends the dot and returns the answer, and return that.

        Raises:
            Exception: before ``finish`` was called; then nobody gets the e-mail.
        """
        ...


class Mailer(Protocol):
    """Hands an e-mail to a mail server."""

    def send(
        self, message: EmailMessage, recipients: Sequence[str], *, at_dot: AtDot | None = None
    ) -> tuple[Refusal, ...]:
        """Send to each of ``recipients`` (not read from the headers) and return those whom the server did not accept.

        If it returns, the server has taken the e-mail for all others, at least one; if it raises anything but
        ``OutcomeUnknown``, for nobody.

        Raises:
            MessageRefused: the message, or every recipient, was refused for good, or it is above the server's SIZE.
            MessageDeferred: the message, or every recipient, was refused, and not for good.
            QuotaReached: the same, for hours.
            AddressNotSupported: each address needs SMTPUTF8 and the server has none.
            SenderDistrusted: the server refuses us, as it says of this e-mail.
            MailServerMisconfigured: the server refuses us, not this e-mail.
            TooManyConnections: it does so for a moment.
            MailServerUnavailable: no answer.
            OutcomeUnknown: no answer to the final dot.
        """
        ...


class SmtpMailer:
    """A ``Mailer`` over SMTP. Safe to share between threads.

    Args:
        server: The mail server.
        host_name: What we call ourselves in EHLO.
        timeout_seconds: For the connection and for each answer but the last.
        tls: Whom to trust; by default the system's authorities, or those in the file that SSL_CERT_FILE names.
        dot_seconds: For the answer to the final dot.
        envelope_sender: Where bounces go; None takes the sender.
        access_token: The file with an access token, for a login by XOAUTH2 instead of the password.
        most_connections: Connections at a time.
        mails_per_connection: E-mails over each of them. With 1, none is used again.
        usual_sender: A refusal of any other sender is no refusal of us. None: there is no other.
    """

    def __init__(
        self,
        server: SmtpServer,
        *,
        host_name: str,
        timeout_seconds: float,
        tls: ssl.SSLContext | None = None,
        dot_seconds: float = DOT_SECONDS,
        envelope_sender: str | None = None,
        access_token: Path | None = None,
        most_connections: int = 256,
        mails_per_connection: int = 1,
        usual_sender: str | None = None,
    ) -> None:
        self._server = server
        self._usual_sender = usual_sender
        # Reading the authorities takes a while, and plain smtp:// has no use for them.
        tls = tls or (ssl.create_default_context() if server.security != "smtp" else None)
        dialler = Dialler(server, host_name, timeout_seconds, tls, access_token)
        self._connections = Connections(dialler.dial, most=most_connections, mails=mails_per_connection)
        self._dot_seconds = dot_seconds
        self._envelope_sender = envelope_sender
        self._distrust = _Distrust()

    def close(self) -> None:
        """Close the connections that are kept."""
        self._connections.close()

    def send(
        self, message: EmailMessage, recipients: Sequence[str], *, at_dot: AtDot | None = None
    ) -> tuple[Refusal, ...]:
        """See ``Mailer``."""
        while True:
            try:
                outcome = self._over_one(message, recipients, at_dot or _finish)
                break
            except _WornOut:  # that connection is closed; the next one is new in the end
                continue
        if isinstance(outcome, JobkitError):
            raise outcome
        self._distrust.clear()
        return outcome

    def _over_one(
        self, message: EmailMessage, recipients: Sequence[str], at_dot: AtDot
    ) -> tuple[Refusal, ...] | JobkitError:
        with self._connections.lend() as session:
            try:
                return self._converse(session, message, recipients, at_dot)
            except (smtplib.SMTPException, OSError) as error:
                raise MailServerUnavailable(f"{self._server} cannot be reached or hung up: {error}") from error

    def _converse(
        self, session: Session, message: EmailMessage, recipients: Sequence[str], at_dot: AtDot
    ) -> tuple[Refusal, ...] | JobkitError:
        """Return whom the server did not accept, or why it took nothing; the connection can be used further."""
        smtp = session.smtp
        international = isinstance(message.policy, EmailPolicy) and message.policy.utf8
        unreachable: list[Refusal] = []
        if international and not smtp.has_extn("smtputf8"):
            unreachable = [_not_ascii(one) for one in recipients if not one.isascii()]
            recipients = [one for one in recipients if one.isascii()]
            if not recipients:
                return AddressNotSupported(f"no address is ASCII, and {self._server} does not offer SMTPUTF8")
            message, international = downgraded(message), False
        data = message.as_bytes()
        if (limit := _size_limit(smtp)) and len(data) > limit:
            return MessageRefused(f"the message has {len(data):,} bytes, and {self._server} takes up to {limit:,}")
        if (refusal := self._begin(session, message, len(data), international=international)) is not None:
            return refusal
        accepted, refusals = self._ask_for(smtp, recipients)
        if not accepted:
            return self._nobody(refusals, recipients)
        code, words = _command(smtp, "data")
        if code != 354:
            return self._refused(code, words, recipients)
        if (early := _send_body(session, data)) is not None:
            return self._refused(*early, recipients)
        finish = _Finish(session, self._server, self._dot_seconds)
        code, words = at_dot(finish, accepted, (*unreachable, *refusals))
        if finish.hung_up:
            raise smtplib.SMTPServerDisconnected(words)
        if 200 <= code < 300:
            return (*unreachable, *refusals)
        return self._refused(code, words, recipients)

    def _begin(self, session: Session, message: EmailMessage, size: int, *, international: bool) -> JobkitError | None:
        smtp = session.smtp
        sender = self._envelope_sender or message["From"].addresses[0].addr_spec
        options = [f"SIZE={size}"] if smtp.has_extn("size") else []
        # Only when an address needs it: many servers do not have it.
        options += ["BODY=8BITMIME", "SMTPUTF8"] if international else []
        smtp.command_encoding = "utf-8" if international else "ascii"
        code, words = _command(smtp, " ".join(["mail", f"FROM:<{sender}>", *options]))
        if 200 <= code < 300:
            return None
        if session.mails > 1 and (code == 421 or verdict_on(code, words) is Verdict.CONNECTIONS):
            raise _WornOut
        return self._sender_refused(sender, code, words)

    def _ask_for(self, smtp: smtplib.SMTP, recipients: Sequence[str]) -> tuple[list[str], list[Refusal]]:
        accepted: list[str] = []
        refusals: list[Refusal] = []
        until = time.monotonic() + RECIPIENT_SECONDS
        for recipient in recipients:
            if accepted and time.monotonic() > until:
                refusals.append(Refusal(address=recipient, code=451, reason="not asked for: the server is slow"))
                continue
            code, words = _command(smtp, f"rcpt TO:<{recipient}>")
            if 200 <= code < 300:
                accepted.append(recipient)
                continue
            refusals.append(Refusal(address=recipient, code=code, reason=words))
            if code == 421:  # it closes the connection, so that nobody gets the e-mail now
                return [], refusals
        return accepted, refusals

    def _nobody(self, refusals: Sequence[Refusal], recipients: Sequence[str]) -> JobkitError:
        verdicts = {verdict_on(one.code, one.reason) for one in refusals}
        what = f"every recipient was refused: {_summary(refusals)}"
        if verdicts == {Verdict.PERMANENT}:
            return MessageRefused(what)
        return self._error(verdicts - {Verdict.PERMANENT}, what, recipients)

    def _refused(self, code: int, words: str, recipients: Sequence[str]) -> JobkitError:
        return self._error({verdict_on(code, words)}, f"{self._server} refused the message: {code} {words}", recipients)

    def _error(self, verdicts: set[Verdict], what: str, recipients: Sequence[str]) -> JobkitError:
        if verdicts == {Verdict.PERMANENT}:
            return MessageRefused(what)
        if Verdict.QUOTA in verdicts:
            return QuotaReached(what)
        if Verdict.CONNECTIONS in verdicts:
            return TooManyConnections(what)
        if verdicts == {Verdict.OURS}:
            return self._distrust.note(f"{what}; check EMAIL_SMTP_URL and EMAIL_SENDER", recipients)
        return MessageDeferred(what)

    def _sender_refused(self, sender: str, code: int, words: str) -> JobkitError:
        answer = f"{code} {words}"
        verdict = verdict_on(code, words)
        if verdict is Verdict.QUOTA:
            return QuotaReached(f"{self._server} takes no more mail for some hours: {answer}")
        if verdict is Verdict.CONNECTIONS:
            return TooManyConnections(f"{self._server} has enough connections of ours: {answer}")
        if verdict is Verdict.RATE or not 500 <= code < 600:
            return MessageDeferred(f"{self._server} does not take mail now: {answer}")
        if code == 552:  # the one thing in MAIL FROM that depends on the e-mail is its size (RFC 1870)
            return MessageRefused(f"the message is too large for {self._server}: {answer}")
        if code == 530:
            return MailServerMisconfigured(f"{self._server} asks for credentials ({code}); check EMAIL_SMTP_URL")
        what = f"{self._server} takes no mail from {sender}: {answer}; check"
        if self._usual_sender is not None and mailbox_key(sender) != mailbox_key(self._usual_sender):
            return SenderDistrusted(f"{what} the job's sender and EMAIL_SENDERS")
        return MailServerMisconfigured(f"{what} EMAIL_SENDER and EMAIL_SMTP_URL")


class _Distrust:
    """Tells a server that refuses us from one that refuses some e-mails with words that sound like it."""

    def __init__(self) -> None:
        self._domains: set[str] = set()
        self._lock = threading.Lock()

    def note(self, what: str, recipients: Sequence[str]) -> JobkitError:
        """Return what a refusal means."""
        with self._lock:
            self._domains |= {domain_of(one).lower() for one in recipients[:DISTRUSTING_DOMAINS]}
            everybody = len(self._domains) >= DISTRUSTING_DOMAINS
        return MailServerMisconfigured(what) if everybody else SenderDistrusted(what)

    def clear(self) -> None:
        """Note that an e-mail was accepted."""
        with self._lock:
            self._domains.clear()


class _WornOut(Exception):
    """The server takes no more e-mails over this connection, and may take one over another."""


class _Finish:
    """Sends the final dot and waits for the answer.

    A server that has spoken or hung up before the dot has not taken the e-mail, whatever was on its way.

    Attributes:
        hung_up: Whether it has, and said nothing that could be heard.
    """

    def __init__(self, session: Session, server: SmtpServer, seconds: float) -> None:
        self._session = session
        self._server = server
        self._seconds = seconds
        self.hung_up = False

    def __call__(self) -> Reply:
        if not self._is_sent():
            return self._last_words()
        try:
            code, words = _reply(self._session.smtp)
        except (smtplib.SMTPException, OSError) as error:
            raise OutcomeUnknown(f"{self._server} has the message and did not answer: {error}") from error
        if not 200 <= code < 300 and not 400 <= code < 600:
            raise OutcomeUnknown(f"{self._server} has the message and answered with no sense: {code} {words}")
        return code, words

    def _is_sent(self) -> bool:
        sock = self._session.smtp.sock
        try:
            if sock is None or self._has_spoken(sock):
                return False
            self._session.wait_for(self._seconds)
            sock.sendall(b".\r\n")
        except OSError:
            return False
        return True

    def _has_spoken(self, sock: socket.socket) -> bool:
        with selectors.DefaultSelector() as ready:
            ready.register(sock, selectors.EVENT_READ)
            if not ready.select(0):
                return False
        self._session.wait_for(0)
        try:
            if self._session.smtp.file is not None:
                self._session.smtp.file.peek(1)
        except ssl.SSLWantReadError:  # something between the two ends of the encryption
            return False
        return True

    def _last_words(self) -> Reply:
        answer = _heard(self._session)
        self.hung_up = answer is None
        return answer or (421, "it hung up before the end of the message")


def _finish(finish: Callable[[], Reply], accepted: Sequence[str], refusals: Sequence[Refusal]) -> Reply:  # noqa: ARG001
    return finish()


def _send_body(session: Session, data: bytes) -> Reply | None:
    """Send all but the final dot. Return the answer of a server that hangs up before, None from one that does not."""
    stuffed = re.sub(rb"(?m)^\.", b"..", data if data.endswith(b"\r\n") else data + b"\r\n")
    sock = session.smtp.sock
    if sock is None:
        raise smtplib.SMTPServerDisconnected("the connection is closed")
    try:
        for start in range(0, len(stuffed), _BLOCK):  # the timeout is for one call, however much it has to send
            sock.sendall(stuffed[start : start + _BLOCK])
    except OSError:
        if (answer := _heard(session)) is not None:
            return answer
        raise
    return None


def _heard(session: Session) -> Reply | None:
    """Return the refusal of a server that did not wait for the end of the message, if it can be read."""
    session.wait_for(SHORT_TIMEOUT)
    with contextlib.suppress(smtplib.SMTPException, OSError):
        code, words = _reply(session.smtp)
        if 400 <= code < 600:
            return code, words
    return None


def _command(smtp: smtplib.SMTP, line: str) -> Reply:
    smtp.putcmd(line)
    return _reply(smtp)


def _reply(smtp: smtplib.SMTP) -> Reply:
    code, text = smtp.getreply()
    return code, plain(text, MAX_REASON)


def _size_limit(smtp: smtplib.SMTP) -> int:
    announced = smtp.esmtp_features.get("size", "").strip()
    return int(announced) if announced.isdecimal() else 0


def _not_ascii(address: str) -> Refusal:
    return Refusal(
        address=address, code=553, reason="5.6.7 it has letters beyond ASCII, and the server does not offer SMTPUTF8"
    )


def _summary(refusals: Sequence[Refusal]) -> str:
    first = f"{refusals[0].address} with {refusals[0].code} {refusals[0].reason}"
    return first if len(refusals) == 1 else f"{first} (and {len(refusals) - 1} more)"
