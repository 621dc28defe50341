"""The mail server: one SMTP conversation for each e-mail, its answers told apart into give up and try again."""

import contextlib
import smtplib
import ssl
from collections.abc import Sequence
from email.message import EmailMessage
from email.policy import EmailPolicy
from typing import Protocol

from email_service.adapters.server import SmtpServer
from email_service.errors import (
    AddressNotSupported,
    MailServerMisconfigured,
    MailServerUnavailable,
    MessageDeferred,
    MessageRefused,
)
from jobkit.contracts.email import Refusal
from jobkit.errors import JobkitError

#: Seconds for the good-bye. The e-mail is out by then, and a longer wait only widens the window for a second copy.
QUIT_TIMEOUT = 2.0

#: Characters of a server's answer that are kept: answers can be long, and results and dead letters should not be.
MAX_REASON = 160


class Mailer(Protocol):
    """Hands an e-mail to a mail server."""

    def send(self, message: EmailMessage, recipients: Sequence[str]) -> tuple[Refusal, ...]:
        """Send to each of ``recipients`` (not read from the headers) and return those whom the server refused.

        If it returns, the server has taken the e-mail for all others, at least one; if it raises, for nobody, or the
        connection was lost before the answer came and that cannot be known.

        Raises:
            MessageRefused: the message, or every recipient, got a 5xx.
            MessageDeferred: the message, or every recipient, was refused, not all with 5xx.
            AddressNotSupported: the addresses need SMTPUTF8 and the server has none.
            MailServerMisconfigured: the server refuses us, not this e-mail.
            MailServerUnavailable: no answer.
        """
        ...


class SmtpMailer:
    """A ``Mailer`` that opens a connection for each e-mail, so that threads share nothing and nothing goes stale.

    Args:
        server: The mail server.
        host_name: What we call ourselves in EHLO. Given, because asking the resolver for it takes unbounded time.
        timeout_seconds: For the connection and for each answer.
        tls: Whom to trust; by default the system's authorities, or those in the file that SSL_CERT_FILE names.
    """

    def __init__(
        self, server: SmtpServer, *, host_name: str, timeout_seconds: float, tls: ssl.SSLContext | None = None
    ) -> None:
        self._server = server
        self._host_name = host_name
        self._timeout = timeout_seconds
        # Reading the authorities takes a while, and plain smtp:// has no use for them.
        self._tls = tls or (ssl.create_default_context() if server.security != "smtp" else None)

    def send(self, message: EmailMessage, recipients: Sequence[str]) -> tuple[Refusal, ...]:
        """See ``Mailer``."""
        try:
            with contextlib.closing(self._connect()) as smtp:
                refused = self._converse(smtp, message, recipients)
        except smtplib.SMTPRecipientsRefused as error:
            refusals = _refusals(error.recipients)
            raise _verdict(*(r.code for r in refusals))(f"every recipient was refused: {_summary(refusals)}") from error
        except smtplib.SMTPDataError as error:
            raise _verdict(error.smtp_code)(f"{self._server} refused the message: {_answer(error)}") from error
        except smtplib.SMTPSenderRefused as error:
            raise self._sender_refused(error) from error
        except smtplib.SMTPResponseException as error:  # greeting, EHLO or STARTTLS: before it knew of any e-mail
            raise MailServerUnavailable(f"{self._server} is not ready for mail: {_answer(error)}") from error
        except (smtplib.SMTPException, OSError) as error:
            raise MailServerUnavailable(f"{self._server} cannot be reached or hung up: {error}") from error
        return refused

    def _converse(self, smtp: smtplib.SMTP, message: EmailMessage, recipients: Sequence[str]) -> tuple[Refusal, ...]:
        if self._server.security == "smtp+starttls":
            self._encrypt(smtp)
        if self._server.username is not None:
            self._log_in(smtp)
        smtp.ehlo_or_helo_if_needed()
        options = []
        # Only when an address needs it: many servers do not have it.
        if isinstance(message.policy, EmailPolicy) and message.policy.utf8:
            if not smtp.has_extn("smtputf8"):
                raise AddressNotSupported(f"an address is not ASCII, and {self._server} does not offer SMTPUTF8")
            options = ["SMTPUTF8", "BODY=8BITMIME"]
        refused = smtp.sendmail(message["From"].addresses[0].addr_spec, recipients, message.as_bytes(), options)
        with contextlib.suppress(smtplib.SMTPException, OSError):  # the e-mail is out, whatever the server says now
            if smtp.sock is not None:
                smtp.sock.settimeout(QUIT_TIMEOUT)
            smtp.quit()
        return _refusals(refused)

    def _connect(self) -> smtplib.SMTP:
        server = self._server
        try:
            if server.security == "smtps":
                return smtplib.SMTP_SSL(
                    server.host, server.port, self._host_name, timeout=self._timeout, context=self._tls
                )
            return smtplib.SMTP(server.host, server.port, self._host_name, timeout=self._timeout)
        except ssl.SSLError as error:
            raise self._misconfigured(f"TLS with {server} failed ({error.reason or error})") from error

    def _encrypt(self, smtp: smtplib.SMTP) -> None:
        try:
            smtp.starttls(context=self._tls)
        except smtplib.SMTPNotSupportedError as error:
            raise self._misconfigured(f"{self._server} does not offer STARTTLS") from error
        except ssl.SSLError as error:
            raise self._misconfigured(f"TLS with {self._server} failed ({error.reason or error})") from error

    def _log_in(self, smtp: smtplib.SMTP) -> None:
        # "from None": the frames of smtplib's login hold the password, and error reports send along local variables.
        # For the same reason the server's words are left out: some echo what they were given.
        assert self._server.username is not None and self._server.password is not None  # noqa: S101, PT018  for mypy
        try:
            smtp.login(self._server.username, self._server.password.get_secret_value())
        except smtplib.SMTPAuthenticationError as error:
            if 400 <= error.smtp_code < 500:
                raise MailServerUnavailable(
                    f"{self._server} cannot check credentials now ({error.smtp_code})"
                ) from None
            raise self._misconfigured(f"{self._server} refused the credentials ({error.smtp_code})") from None
        except smtplib.SMTPServerDisconnected:
            raise MailServerUnavailable(f"{self._server} hung up during the login") from None
        except smtplib.SMTPException:
            raise self._misconfigured(f"{self._server} offers no way to log in that takes these credentials") from None

    def _sender_refused(self, error: smtplib.SMTPSenderRefused) -> JobkitError:
        if not 500 <= error.smtp_code < 600:
            return MessageDeferred(f"{self._server} does not take mail now: {_answer(error)}")
        if error.smtp_code == 552:  # the one thing in MAIL FROM that depends on the e-mail is its size (RFC 1870)
            return MessageRefused(f"the message is too large for {self._server}: {_answer(error)}")
        if error.smtp_code == 530:
            return self._misconfigured(f"{self._server} asks for credentials ({error.smtp_code})")
        return MailServerMisconfigured(
            f"{self._server} takes no mail from {error.sender}: {_answer(error)}; check EMAIL_SENDER and EMAIL_SMTP_URL"
        )

    def _misconfigured(self, what: str) -> MailServerMisconfigured:
        return MailServerMisconfigured(f"{what}; check EMAIL_SMTP_URL")


def _verdict(*codes: int) -> type[MessageRefused | MessageDeferred]:
    """Permanent only if every code says so: one recipient who may be reached later is worth another attempt."""
    return MessageRefused if all(500 <= code < 600 for code in codes) else MessageDeferred


def _refusals(replies: dict[str, tuple[int, bytes]]) -> tuple[Refusal, ...]:
    return tuple(Refusal(address=who, code=code, reason=_words(text)) for who, (code, text) in replies.items())


def _summary(refusals: Sequence[Refusal]) -> str:
    first = f"{refusals[0].address} with {refusals[0].code} {refusals[0].reason}"
    return first if len(refusals) == 1 else f"{first} (and {len(refusals) - 1} more)"


def _answer(error: smtplib.SMTPResponseException) -> str:
    return f"{error.smtp_code} {_words(error.smtp_error)}"


def _words(text: bytes | str) -> str:
    words = text.decode(errors="replace") if isinstance(text, bytes) else text
    printable = "".join(c if c.isprintable() else " " for c in words)  # they end up in somebody's terminal
    return " ".join(printable.split())[:MAX_REASON]
