"""Real SMTP conversations on the loopback interface."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from email import message_from_bytes, policy
from email.message import EmailMessage
from importlib.resources import as_file, files
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session
from pydantic import SecretStr

from email_service.adapters.mailer import SmtpMailer
from email_service.adapters.server import SmtpServer
from email_service.errors import (
    AddressNotSupported,
    MailServerMisconfigured,
    MailServerUnavailable,
    MessageDeferred,
    MessageRefused,
)
from jobkit.errors import PermanentError, TransientError

PASSWORD = "hunter2"
Answers = dict[str, str]


class Postmaster:
    """Keeps what it is told, and answers as the test wants: by verb, or by recipient."""

    def __init__(self) -> None:
        self.answers: Answers = {}
        self.conversation: list[tuple[str, ...]] = []
        self.messages: list[EmailMessage] = []
        self.raw: list[bytes] = []

    async def handle_EHLO(  # noqa: N802  aiosmtpd finds its hooks by the verb
        self, server: SMTP, session: Session, envelope: Envelope, hostname: str, responses: list[str]
    ) -> list[str]:
        session.host_name = hostname
        self.conversation.append(("EHLO", hostname))
        return responses

    async def handle_MAIL(  # noqa: N802  the name that aiosmtpd calls
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        self.conversation.append(("MAIL FROM", address, *sorted(o for o in options if not o.startswith("SIZE"))))
        if "MAIL" in self.answers:
            return self.answers["MAIL"]
        envelope.mail_from = address
        return "250 OK"

    async def handle_RCPT(  # noqa: N802  the name that aiosmtpd calls
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        self.conversation.append(("RCPT TO", address))
        if address in self.answers:
            return self.answers[address]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802  the name that aiosmtpd calls
        assert isinstance(envelope.content, bytes)
        self.conversation.append(("DATA",))
        if "DATA" in self.answers:
            return self.answers["DATA"]
        self.raw.append(envelope.content)
        self.messages.append(message_from_bytes(envelope.content, policy=policy.SMTPUTF8))
        return "250 OK: queued"


class OnFreePort(Controller):
    """A controller on a port that the kernel chose and that nobody can take in between."""

    def __init__(self, handler: Postmaster, **options: Any) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        super().__init__(handler, hostname="127.0.0.1", port=self._listener.getsockname()[1], **options)

    def _create_server(self) -> Any:
        return self.loop.create_server(self._factory_invoker, sock=self._listener, ssl=self.ssl_context)


@contextlib.contextmanager
def mail_server(handler: Postmaster, **options: object) -> Iterator[int]:
    controller = OnFreePort(handler, **options)
    controller.start()
    try:
        yield controller.port
    finally:
        controller.stop()


@pytest.fixture
def postmaster() -> Postmaster:
    return Postmaster()


@pytest.fixture
def mailer(postmaster: Postmaster) -> Iterator[SmtpMailer]:
    with mail_server(postmaster, enable_SMTPUTF8=True) as port:
        yield mailer_for(port)


def mailer_for(port: int, *, timeout: float = 5, tls: ssl.SSLContext | None = None, **server: Any) -> SmtpMailer:
    return SmtpMailer(
        SmtpServer(server.pop("security", "smtp"), "127.0.0.1", port, **server),
        host_name="example.com",
        timeout_seconds=timeout,
        tls=tls,
    )


def mail(to: str = "ada@example.org", *, utf8: bool = False) -> EmailMessage:
    message = EmailMessage(policy=policy.SMTPUTF8 if utf8 else policy.SMTP)
    message["From"] = "no-reply@example.com"
    message["To"] = to
    message["Subject"] = "Hello"
    message.set_content("A line.\n.\nA line after a dot.\n")
    return message


# Taken -----------------------------------------------------------------------------------------------------------


def test_an_email_is_handed_over_in_one_conversation(mailer: SmtpMailer, postmaster: Postmaster) -> None:
    assert mailer.send(mail(), ["ada@example.org", "eve@example.org"]) == ()
    assert postmaster.conversation == [
        ("EHLO", "example.com"),
        ("MAIL FROM", "no-reply@example.com"),
        ("RCPT TO", "ada@example.org"),
        ("RCPT TO", "eve@example.org"),
        ("DATA",),
    ]
    assert postmaster.messages[0].get_content().splitlines() == ["A line.", ".", "A line after a dot."]


def test_a_refused_recipient_does_not_cost_the_others_their_copy(mailer: SmtpMailer, postmaster: Postmaster) -> None:
    postmaster.answers = {"gone@example.org": "550 5.1.1 No such user", "full@example.org": "452 4.2.2 Mailbox full"}
    refusals = mailer.send(mail(), ["gone@example.org", "ada@example.org", "full@example.org"])
    assert [(r.address, r.code, r.reason) for r in refusals] == [
        ("gone@example.org", 550, "5.1.1 No such user"),
        ("full@example.org", 452, "4.2.2 Mailbox full"),
    ]
    assert len(postmaster.messages) == 1


def test_smtputf8_is_asked_for_only_when_an_address_needs_it(mailer: SmtpMailer, postmaster: Postmaster) -> None:
    mailer.send(mail("jörg@example.org", utf8=True), ["jörg@example.org"])
    assert ("MAIL FROM", "no-reply@example.com", "BODY=8BITMIME", "SMTPUTF8") in postmaster.conversation
    assert ("RCPT TO", "jörg@example.org") in postmaster.conversation
    assert "To: jörg@example.org\r\n".encode() in postmaster.raw[0]


def test_an_address_that_the_server_cannot_take_is_permanent(postmaster: Postmaster) -> None:
    plain = mail_server(postmaster, enable_SMTPUTF8=False)
    with plain as port, pytest.raises(AddressNotSupported, match="SMTPUTF8"):
        mailer_for(port).send(mail("jörg@example.org", utf8=True), ["jörg@example.org"])
    assert postmaster.conversation == [("EHLO", "example.com")]


# Refused ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answers", "error", "kind", "words"),
    [
        ({"a@example.org": "550 unknown", "b@example.org": "553 no"}, MessageRefused, PermanentError, "550 unknown"),
        ({"a@example.org": "450 greylisted", "b@example.org": "451 x"}, MessageDeferred, TransientError, "greylisted"),
        ({"a@example.org": "550 unknown", "b@example.org": "451 later"}, MessageDeferred, TransientError, "1 more"),
        ({"b@example.org": "421 shutting down"}, MessageDeferred, TransientError, "421 shutting down"),
        ({"DATA": "554 5.7.1 looks like spam"}, MessageRefused, PermanentError, "554 5.7.1 looks like spam"),
        ({"DATA": "451 4.3.0 try later"}, MessageDeferred, TransientError, "451 4.3.0 try later"),
        ({"DATA": "421 4.3.2 going down"}, MessageDeferred, TransientError, "421"),
        ({"MAIL": "451 4.3.0 busy"}, MessageDeferred, TransientError, "451"),
        ({"MAIL": "421 4.3.0 busy"}, MessageDeferred, TransientError, "421"),
        ({"MAIL": "552 5.3.4 too big"}, MessageRefused, PermanentError, "too large"),
        ({"MAIL": "530 5.7.0 log in"}, MailServerMisconfigured, TransientError, "EMAIL_SMTP_URL"),
        (
            {"MAIL": "550 5.7.1 not yours"},
            MailServerMisconfigured,
            TransientError,
            "no-reply@example.com.*EMAIL_SENDER",
        ),
    ],
)
def test_a_refusal_is_permanent_exactly_when_the_email_can_never_be_sent(
    mailer: SmtpMailer,
    postmaster: Postmaster,
    answers: Answers,
    error: type[Exception],
    kind: type[Exception],
    words: str,
) -> None:
    postmaster.answers = answers
    with pytest.raises(error, match=words) as refused:
        mailer.send(mail(), ["a@example.org", "b@example.org"])
    assert isinstance(refused.value, kind)
    assert len(str(refused.value).splitlines()) == 1
    assert postmaster.messages == []


# Unreachable, silent, confused -------------------------------------------------------------------------------------


@contextlib.contextmanager
def scripted(*replies: bytes | None) -> Iterator[tuple[int, list[bytes]]]:
    """A server that greets, then answers line by line; ``None`` hangs up, and after the last reply it is silent."""
    heard: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(5)

    def serve() -> None:
        with contextlib.suppress(OSError):
            connection, _ = listener.accept()
            connection.settimeout(5)
            with connection, connection.makefile("rb") as lines:
                for reply in replies:
                    if reply is None:
                        return
                    connection.sendall(reply)
                    heard.append(lines.readline())
                    if heard[-1] == b"data\r\n":
                        connection.sendall(b"354 go on\r\n")
                        while lines.readline() not in (b".\r\n", b""):
                            pass
                lines.read()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1], heard
    finally:
        listener.close()
        thread.join()


def test_a_server_that_is_down_is_tried_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(MailServerUnavailable, match=f"127.0.0.1:{port} cannot be reached"):
        mailer_for(port).send(mail(), ["ada@example.org"])


OK = b"250 OK\r\n"


@pytest.mark.parametrize(
    "replies",
    [
        (None,),
        (b"421 too busy\r\n",),
        (b"554 no mail here\r\n",),
        (b"HTTP/1.1 400 Bad Request\r\n",),
        (b"220 hello\r\n", None),
        (b"220 hello\r\n", OK, None),
        (b"220 hello\r\n", OK, OK, OK, None),  # after the final dot: whether it was taken cannot be known
    ],
)
def test_a_server_that_turns_away_or_hangs_up_is_tried_again(replies: tuple[bytes | None, ...]) -> None:
    with scripted(*replies) as (port, _), pytest.raises(MailServerUnavailable):
        mailer_for(port).send(mail(), ["ada@example.org"])


@pytest.mark.parametrize("replies", [(), (b"220 hello\r\n", OK, OK)])
def test_a_silent_server_is_given_up_after_the_timeout(replies: tuple[bytes, ...]) -> None:
    with scripted(*replies) as (port, _), pytest.raises(MailServerUnavailable, match="timed out"):
        mailer_for(port, timeout=0.1).send(mail(), ["ada@example.org"])


@pytest.mark.parametrize("goodbye", [None, b"500 what?\r\n", b"221 bye\r\n"])
def test_once_taken_an_email_counts_as_sent_however_the_server_says_goodbye(goodbye: bytes | None) -> None:
    with scripted(b"220 hello\r\n", OK, OK, OK, OK, goodbye) as (port, heard):
        assert mailer_for(port).send(mail(), ["ada@example.org"]) == ()
    assert b"quit\r\n" in heard


# Credentials and encryption ----------------------------------------------------------------------------------------


def authenticate(server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: LoginPassword) -> AuthResult:
    right = (data.login, data.password) == (b"ada", PASSWORD.encode())
    return AuthResult(success=right, handled=right, message=None if right else f"535 5.7.8 {data.password!r} is wrong")


@pytest.fixture
def guarded_port(postmaster: Postmaster) -> Iterator[int]:
    with (
        pytest.warns(UserWarning, match="AUTH while not requiring TLS"),
        mail_server(postmaster, authenticator=authenticate, auth_require_tls=False, auth_required=True) as port,
    ):
        yield port


def everything_a_report_could_hold(error: BaseException) -> str:
    """The chain that a traceback or an error report shows, with the local variables of each frame."""
    shown = []
    link: BaseException | None = error
    while link is not None:
        frame = link.__traceback__
        while frame is not None:
            # The test's own frames, where the password is known, are not the service's.
            if frame.tb_frame.f_code.co_filename != __file__:
                shown.append(repr(frame.tb_frame.f_locals))
            frame = frame.tb_next
        shown.append(repr(link))
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    return "\n".join(shown)


def test_the_right_credentials_open_the_door(guarded_port: int, postmaster: Postmaster) -> None:
    with pytest.raises(MailServerMisconfigured, match=r"asks for credentials.*EMAIL_SMTP_URL"):
        mailer_for(guarded_port).send(mail(), ["ada@example.org"])
    assert postmaster.messages == []
    mailer_for(guarded_port, username="ada", password=SecretStr(PASSWORD)).send(mail(), ["ada@example.org"])
    assert len(postmaster.messages) == 1


def test_wrong_credentials_wait_for_the_setting_and_never_show_the_password(guarded_port: int) -> None:
    wrong = mailer_for(guarded_port, username="ada", password=SecretStr("swordfish"))
    with pytest.raises(
        MailServerMisconfigured, match=r"refused the credentials \(535\); check EMAIL_SMTP_URL"
    ) as error:
        wrong.send(mail(), ["ada@example.org"])
    assert isinstance(error.value, TransientError)
    shown = everything_a_report_could_hold(error.value)
    assert "swordfish" not in shown
    assert "c3dvcmRmaXNo" not in shown  # the same in base64, as AUTH PLAIN carries it


AUTH = b"250-hello\r\n250 AUTH PLAIN\r\n"


@pytest.mark.parametrize(
    ("replies", "error"),
    [
        ((b"220 hello\r\n", AUTH, None), MailServerUnavailable),
        ((b"220 hello\r\n", AUTH, b"454 4.7.0 the directory is down\r\n"), MailServerUnavailable),
        ((b"220 hello\r\n", AUTH, b"534 5.7.9 too weak\r\n"), MailServerMisconfigured),
        ((b"220 hello\r\n", OK), MailServerMisconfigured),  # offers no login at all
        ((b"220 hello\r\n", b"250-hello\r\n250 AUTH GSSAPI\r\n"), MailServerMisconfigured),
    ],
)
def test_no_failure_of_a_login_is_the_jobs_or_shows_the_password(
    replies: tuple[bytes | None, ...], error: type[Exception]
) -> None:
    with scripted(*replies) as (port, _), pytest.raises(error) as failed:
        mailer_for(port, username="ada", password=SecretStr("swordfish")).send(mail(), ["ada@example.org"])
    shown = everything_a_report_could_hold(failed.value)
    assert "swordfish" not in shown
    assert "AGFkYQBzd29yZGZpc2g=" not in shown  # AUTH PLAIN's "\0ada\0swordfish"


@pytest.fixture(scope="module")
def certificate() -> Iterator[ssl.SSLContext]:
    """A server with the self-signed certificate that aiosmtpd tests itself with."""
    with as_file(files("aiosmtpd.tests.certs")) as folder:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "server.crt", folder / "server.key")
        yield context


@pytest.fixture(scope="module")
def trusting() -> ssl.SSLContext:
    """A client that trusts that certificate, which is made out to another host name."""
    with as_file(files("aiosmtpd.tests.certs")) as folder:
        context = ssl.create_default_context(cafile=folder / "server.crt")
    context.check_hostname = False
    return context


@pytest.mark.parametrize(("security", "option"), [("smtp+starttls", "tls_context"), ("smtps", "ssl_context")])
def test_an_encrypted_connection_is_used_when_the_url_says_so_and_only_with_a_certificate_that_is_trusted(
    postmaster: Postmaster, certificate: ssl.SSLContext, trusting: ssl.SSLContext, security: str, option: str
) -> None:
    with mail_server(postmaster, **{option: certificate}) as port:
        with pytest.raises(MailServerMisconfigured, match=r"CERTIFICATE_VERIFY_FAILED.*EMAIL_SMTP_URL"):
            mailer_for(port, security=security).send(mail(), ["ada@example.org"])
        assert postmaster.messages == []
        mailer_for(port, security=security, tls=trusting).send(mail(), ["ada@example.org"])
        assert len(postmaster.messages) == 1


def test_a_server_without_starttls_gets_neither_credentials_nor_mail(postmaster: Postmaster) -> None:
    with mail_server(postmaster) as port, pytest.raises(MailServerMisconfigured, match="does not offer STARTTLS"):
        mailer_for(port, security="smtp+starttls", username="ada", password=SecretStr("x")).send(mail(), ["a@b.co"])
    assert postmaster.conversation == [("EHLO", "example.com")]
