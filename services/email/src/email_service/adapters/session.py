"""One connection to the mail server: opened, encrypted, logged in, and checked before it is used again."""

import contextlib
import smtplib
import ssl
import time
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from email_service.adapters.replies import Verdict, plain, verdict_on
from email_service.adapters.server import SmtpServer
from email_service.errors import MailServerMisconfigured, MailServerUnavailable, TooManyConnections
from jobkit.errors import JobkitError

#: Seconds for the good-bye and for the check of a connection that was kept: the e-mail is out, or another one serves.
SHORT_TIMEOUT = 2.0

#: Characters of a server's answer that are kept: answers can be long, and results and dead letters should not be.
MAX_REASON = 300


@dataclass(frozen=True)
class Dialler:
    """How to open a connection.

    Attributes:
        server: The mail server.
        host_name: What we call ourselves in EHLO. Given, because asking the resolver for it takes unbounded time.
        timeout: Seconds for the connection and for each answer.
        tls: Whom to trust; None for a server without TLS.
        access_token: The file that holds an access token, for a login by XOAUTH2. Read at each login: tokens expire.
    """

    server: SmtpServer
    host_name: str
    timeout: float
    tls: ssl.SSLContext | None = None
    access_token: Path | None = None

    def dial(self) -> "Session":
        """Open a connection that is ready for MAIL FROM.

        Raises:
            TooManyConnections: the server has enough of ours.
            MailServerMisconfigured: it refuses our login, or the encryption that we ask for.
            MailServerUnavailable: no answer, or not ready for anybody.
        """
        smtp: smtplib.SMTP | None = None
        try:
            smtp = self._connect()
            _greet(smtp)
            if self.server.security == "smtp+starttls":
                self._encrypt(smtp)
            if self.server.username is not None:
                self._log_in(smtp, self.server.username)
            smtp.ehlo_or_helo_if_needed()
        except smtplib.SMTPResponseException as error:  # greeting, EHLO or STARTTLS: before it knew of any e-mail
            _drop(smtp)
            raise self._not_ready(error) from error
        except (smtplib.SMTPException, OSError) as error:
            _drop(smtp)
            raise MailServerUnavailable(f"{self.server} cannot be reached or hung up: {error}") from error
        except BaseException:
            _drop(smtp)
            raise
        return Session(smtp, self.timeout)

    def _connect(self) -> smtplib.SMTP:
        server = self.server
        try:
            if server.security == "smtps":
                return smtplib.SMTP_SSL(
                    server.host, server.port, self.host_name, timeout=self.timeout, context=self.tls
                )
            return smtplib.SMTP(server.host, server.port, self.host_name, timeout=self.timeout)
        except ssl.SSLError as error:
            raise self._misconfigured(f"TLS with {server} failed ({error.reason or error})") from error

    def _encrypt(self, smtp: smtplib.SMTP) -> None:
        try:
            smtp.starttls(context=self.tls)
        except smtplib.SMTPNotSupportedError as error:
            raise self._misconfigured(f"{self.server} does not offer STARTTLS") from error
        except ssl.SSLError as error:
            raise self._misconfigured(f"TLS with {self.server} failed ({error.reason or error})") from error

    def _log_in(self, smtp: smtplib.SMTP, username: str) -> None:
        # "from None": the frames of smtplib's login hold the password, and error reports send along local variables.
        # For the same reason the server's words are left out: some echo what they were given.
        try:
            if self.access_token is not None:
                smtp.ehlo_or_helo_if_needed()
                smtp.auth("XOAUTH2", _BearerToken(username, self._token(self.access_token)), initial_response_ok=True)
            else:
                password = self.server.password or SecretStr("")
                smtp.login(username, password.get_secret_value())
        except smtplib.SMTPAuthenticationError as error:
            if _is_too_many(error):
                raise TooManyConnections(f"{self.server} has enough connections of ours ({error.smtp_code})") from None
            if 400 <= error.smtp_code < 500:
                raise MailServerUnavailable(f"{self.server} cannot check credentials now ({error.smtp_code})") from None
            raise self._misconfigured(f"{self.server} refused the credentials ({error.smtp_code})") from None
        except smtplib.SMTPServerDisconnected:
            raise MailServerUnavailable(f"{self.server} hung up during the login") from None
        except smtplib.SMTPException:
            raise self._misconfigured(f"{self.server} offers no way to log in that takes these credentials") from None

    def _token(self, path: Path) -> SecretStr:
        try:
            return SecretStr(path.read_text(encoding="ascii").strip())
        except (OSError, UnicodeDecodeError) as error:
            raise MailServerMisconfigured(
                f"the access token cannot be read: {error}; check EMAIL_ACCESS_TOKEN_PATH"
            ) from error

    def _not_ready(self, error: smtplib.SMTPResponseException) -> JobkitError:
        words = plain(error.smtp_error, MAX_REASON)
        if _is_too_many(error):
            return TooManyConnections(f"{self.server} has enough connections of ours: {error.smtp_code} {words}")
        return MailServerUnavailable(f"{self.server} is not ready for mail: {error.smtp_code} {words}")

    def _misconfigured(self, what: str) -> MailServerMisconfigured:
        return MailServerMisconfigured(f"{what}; check EMAIL_SMTP_URL")


class Session:
    """An open connection.

    Attributes:
        smtp: The connection.
        mails: E-mails that were begun over it.
        used_at: When it was used last, on the monotonic clock.
    """

    def __init__(self, smtp: smtplib.SMTP, timeout: float) -> None:
        self.smtp = smtp
        self.mails = 0
        self.used_at = time.monotonic()
        self._timeout = timeout

    def begin(self) -> None:
        """Count an e-mail."""
        self.mails += 1
        self.wait_for(self._timeout)

    def wait_for(self, seconds: float) -> None:
        """Let each further read and write take so long."""
        if self.smtp.sock is not None:
            self.smtp.sock.settimeout(seconds)

    def is_alive(self) -> bool:
        """Return whether the server still listens; it forgets an e-mail that was begun."""
        try:
            self.wait_for(SHORT_TIMEOUT)
            return self.smtp.rset()[0] == 250
        except (smtplib.SMTPException, OSError):
            return False

    def close(self) -> None:
        """Say good-bye and close."""
        with contextlib.suppress(smtplib.SMTPException, OSError):
            self.wait_for(SHORT_TIMEOUT)
            self.smtp.quit()
        self.drop()

    def drop(self) -> None:
        """Close at once. The server forgets an e-mail whose final dot it has not got."""
        _drop(self.smtp)


class _BearerToken:
    """Answers the challenges of XOAUTH2 (https://developers.google.com/gmail/imap/xoauth2-protocol)."""

    def __init__(self, username: str, token: SecretStr) -> None:
        self._username = username
        self._token = token

    def __call__(self, challenge: bytes | None = None) -> str:
        if challenge is not None:  # it says what is wrong, and wants an empty line before it refuses
            return ""
        return f"user={self._username}\x01auth=Bearer {self._token.get_secret_value()}\x01\x01"


def _greet(smtp: smtplib.SMTP) -> None:
    # smtplib would take a refusal of EHLO, whatever it says, for a server that knows HELO alone.
    code, words = smtp.ehlo()
    if code != 250 and code != 421:
        code, words = smtp.helo()
    if code != 250:
        raise smtplib.SMTPHeloError(code, words)


def _is_too_many(error: smtplib.SMTPResponseException) -> bool:
    return verdict_on(error.smtp_code, plain(error.smtp_error, MAX_REASON)) is Verdict.CONNECTIONS


def _drop(smtp: smtplib.SMTP | None) -> None:
    if smtp is not None:
        with contextlib.suppress(OSError):
            smtp.close()
