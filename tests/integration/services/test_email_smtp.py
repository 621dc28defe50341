"""Real SMTP conversations on the loopback interface."""

import asyncio
import base64
import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from email import message_from_bytes, policy
from email.message import EmailMessage
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session
from pydantic import SecretStr

from email_service.adapters.connections import Connections
from email_service.adapters.mailer import SmtpMailer
from email_service.adapters.server import SmtpServer
from email_service.adapters.session import Dialler
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


def large_mail() -> EmailMessage:
    message = mail()
    message.set_content("a line that is not short\n" * 200_000)
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


def test_an_address_that_the_server_cannot_take_costs_nobody_else_a_copy(postmaster: Postmaster) -> None:
    message = mail("jörg@example.org, ada@example.org", utf8=True)
    with mail_server(postmaster, enable_SMTPUTF8=False) as port:
        refusals = mailer_for(port).send(message, ["jörg@example.org", "ada@example.org"])
    assert [(one.address, one.code) for one in refusals] == [("jörg@example.org", 553)]
    assert postmaster.messages[0]["To"] == "ada@example.org"
    assert postmaster.raw[0].isascii()
    assert [one for one in postmaster.conversation if one[0] == "RCPT TO"] == [("RCPT TO", "ada@example.org")]


def test_an_address_in_quotes_travels_in_quotes() -> None:
    with scripted(b"220 hello\r\n", OK, OK, OK, OK, OK) as (port, heard):
        mailer_for(port).send(mail(), ['"ada..b"@example.org'])
    assert b'rcpt TO:<"ada..b"@example.org>\r\n' in heard


def test_bounces_go_to_an_address_of_their_own(postmaster: Postmaster) -> None:
    with mail_server(postmaster) as port:
        SmtpMailer(
            SmtpServer("smtp", "127.0.0.1", port),
            host_name="example.com",
            timeout_seconds=5,
            envelope_sender="bounces@example.com",
        ).send(mail(), ["ada@example.org"])
    assert ("MAIL FROM", "bounces@example.com") in postmaster.conversation
    assert postmaster.messages[0]["From"] == "no-reply@example.com"


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
def scripted(*replies: bytes | None, body: bool = True) -> Iterator[tuple[int, list[bytes]]]:
    """A server that greets, then answers line by line; ``None`` hangs up, and after the last reply it is silent.

    Without ``body`` it reads no more than a line of the message.
    """
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
                        while lines.readline() not in (b".\r\n", b"") and body:
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
    ],
)
def test_a_server_that_turns_away_or_hangs_up_is_tried_again(replies: tuple[bytes | None, ...]) -> None:
    with scripted(*replies) as (port, _), pytest.raises(MailServerUnavailable):
        mailer_for(port).send(mail(), ["ada@example.org"])


@pytest.mark.parametrize("ending", [None, b"nonsense\r\n", b"354 go on\r\n"])
def test_whether_a_server_took_it_that_gives_no_answer_to_the_final_dot_is_unknown(ending: bytes | None) -> None:
    with scripted(b"220 hello\r\n", OK, OK, OK, ending) as (port, _), pytest.raises(OutcomeUnknown):
        mailer_for(port).send(mail(), ["ada@example.org"])


def test_the_answer_to_the_final_dot_has_a_time_of_its_own() -> None:
    heard = threading.Event()

    class Slow(Postmaster):
        async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802  the name that aiosmtpd calls
            await asyncio.to_thread(heard.wait, 5)
            return "250 OK"

    with mail_server(Slow()) as port:
        mailer = mailer_for(port, timeout=0.2)
        threading.Timer(0.5, heard.set).start()
        assert mailer.send(mail(), ["ada@example.org"]) == ()
        heard.clear()
        with pytest.raises(OutcomeUnknown):
            SmtpMailer(
                SmtpServer("smtp", "127.0.0.1", port), host_name="example.com", timeout_seconds=5, dot_seconds=0.1
            ).send(mail(), ["ada@example.org"])
        heard.set()


@pytest.mark.parametrize("answer", ["250 OK", "251 will forward", "252 cannot verify", "200 fine"])
def test_any_positive_answer_to_the_final_dot_is_one(mailer: SmtpMailer, postmaster: Postmaster, answer: str) -> None:
    postmaster.answers = {"DATA": answer}
    assert mailer.send(mail(), ["ada@example.org"]) == ()


def test_a_server_that_hangs_up_before_the_final_dot_has_not_taken_it() -> None:
    seen: list[str] = []

    def at_dot(finish: Callable[[], tuple[int, str]], accepted: object, refusals: object) -> tuple[int, str]:
        seen.append("dot")
        return finish()

    with scripted(b"220 hello\r\n", OK, OK, OK, None, body=False) as (port, _), pytest.raises(MailServerUnavailable):
        mailer_for(port).send(large_mail(), ["ada@example.org"], at_dot=at_dot)
    assert seen == []


def test_what_a_server_says_before_it_hangs_up_is_heard() -> None:
    too_big = b"552 5.3.4 Message too big\r\n"
    with (
        scripted(b"220 hello\r\n", OK, OK, OK, too_big, None, body=False) as (port, _),
        pytest.raises((MessageRefused, MailServerUnavailable)) as error,
    ):
        mailer_for(port).send(large_mail(), ["ada@example.org"])
    # A connection that is reset may take the answer with it.
    assert isinstance(error.value, MailServerUnavailable) or "552 5.3.4" in str(error.value)


@pytest.mark.parametrize(
    ("ending", "error"), [(b"552 5.3.4 Message too big\r\n", MessageRefused), (b"", MailServerUnavailable)]
)
def test_a_server_that_speaks_or_hangs_up_before_the_final_dot_has_not_taken_it(
    ending: bytes, error: type[Exception]
) -> None:
    ended = threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listener.accept()
        connection.settimeout(5)
        with connection, connection.makefile("rb") as lines, contextlib.suppress(OSError):
            for reply in (b"220 hello\r\n", OK, OK, OK, b"354 go on\r\n"):
                connection.sendall(reply)
                lines.readline()
            connection.sendall(ending) if ending else connection.shutdown(socket.SHUT_RDWR)
            ended.set()
            lines.read()

    def at_dot(finish: Callable[[], tuple[int, str]], accepted: object, refusals: object) -> tuple[int, str]:
        assert ended.wait(5)
        code, words = finish()
        assert 400 <= code < 600  # so that the mark of the final dot is taken back
        return code, words

    thread = threading.Thread(target=serve)
    thread.start()
    with listener, pytest.raises(error):
        mailer_for(listener.getsockname()[1]).send(mail(), ["ada@example.org"], at_dot=at_dot)
    thread.join()


def test_a_message_above_the_announced_size_is_refused_before_it_is_offered(postmaster: Postmaster) -> None:
    with mail_server(postmaster, data_size_limit=1000) as port:
        mailer = mailer_for(port)
        assert mailer.send(mail(), ["ada@example.org"]) == ()
        with pytest.raises(MessageRefused, match="takes up to 1,000"):
            mailer.send(large_mail(), ["ada@example.org"])
    assert len([one for one in postmaster.conversation if one[0] == "MAIL FROM"]) == 1


# Whose fault -------------------------------------------------------------------------------------------------------


def test_a_refusal_of_us_counts_against_the_server_once_five_domains_meet_it(
    mailer: SmtpMailer, postmaster: Postmaster
) -> None:
    denied = {f"a@d{number}.example": "554 5.7.1 Relay access denied" for number in range(6)}
    postmaster.answers = dict(denied)
    for number in (0, 0, 1, 2, 3):
        with pytest.raises(SenderDistrusted, match="EMAIL_SMTP_URL"):
            mailer.send(mail(), [f"a@d{number}.example"])
    with pytest.raises(MailServerMisconfigured):
        mailer.send(mail(), ["a@d4.example"])
    mailer.send(mail(), ["ada@example.org"])  # accepted: it was about those recipients
    with pytest.raises(SenderDistrusted):
        mailer.send(mail(), ["a@d5.example"])


def test_a_refusal_of_a_jobs_own_sender_is_none_of_us(postmaster: Postmaster) -> None:
    postmaster.answers = {"MAIL": "553 5.7.1 Sender address rejected: not owned by user app"}
    with mail_server(postmaster) as port:
        for usual, error in (("NO-REPLY@example.com", MailServerMisconfigured), ("a@example.com", SenderDistrusted)):
            mailer = SmtpMailer(
                SmtpServer("smtp", "127.0.0.1", port), host_name="x.example", timeout_seconds=5, usual_sender=usual
            )
            with pytest.raises(error, match="Sender address rejected"):
                mailer.send(mail(), ["ada@example.org"])


@pytest.mark.parametrize(
    ("answers", "error"),
    [
        ({"a@example.org": "550 5.4.5 Daily user sending quota exceeded"}, QuotaReached),
        ({"MAIL": "454 Throttling failure: Daily message quota exceeded."}, QuotaReached),
        ({"MAIL": "550 5.7.0 too many emails per second"}, MessageDeferred),
        ({"DATA": "550 5.7.0 too many emails per second"}, MessageDeferred),
        ({"MAIL": "421 4.7.0 too many connections"}, TooManyConnections),
        ({"DATA": "554 5.7.1 Client host [192.0.2.1] blocked using a list"}, SenderDistrusted),
    ],
)
def test_limits_and_distrust_are_not_the_recipients(
    mailer: SmtpMailer, postmaster: Postmaster, answers: Answers, error: type[Exception]
) -> None:
    postmaster.answers = answers
    with pytest.raises(error):
        mailer.send(mail(), ["a@example.org"])


# Connections -------------------------------------------------------------------------------------------------------


class Counting(Postmaster):
    """Lets only so many connections in, and knows how many there were."""

    def __init__(self, most: int = 100) -> None:
        super().__init__()
        self.most, self.open, self.all = most, 0, 0

    def factory(self, **options: Any) -> SMTP:
        counting = self

        class Server(SMTP):
            def connection_made(self, transport: Any) -> None:
                counting.open += 1
                counting.all += 1
                if counting.open > counting.most:
                    transport.write(b"421 4.7.0 Too many connections from your address\r\n")
                    transport.close()
                    self.turned_away = True
                    return
                super().connection_made(transport)

            def connection_lost(self, error: Exception | None) -> None:
                counting.open -= 1
                if not getattr(self, "turned_away", False):
                    super().connection_lost(error)

        return Server(self, **options)


class CountingController(OnFreePort):
    def factory(self) -> SMTP:
        assert isinstance(self.handler, Counting)
        return self.handler.factory(hostname="127.0.0.1")


@contextlib.contextmanager
def counted(handler: Counting, **options: Any) -> Iterator[tuple[SmtpMailer, int]]:
    controller = CountingController(handler)
    controller.start()
    handler.all = 0  # the controller has made sure that it answers
    server = SmtpServer("smtp", "127.0.0.1", controller.port)
    mailer = SmtpMailer(server, host_name="example.com", timeout_seconds=5, **options)
    try:
        yield mailer, controller.port
    finally:
        mailer.close()
        controller.stop()


def test_a_connection_carries_so_many_emails_and_no_more() -> None:
    handler = Counting()
    with counted(handler, mails_per_connection=4, most_connections=1) as (mailer, _):
        for _ in range(10):
            mailer.send(mail(), ["ada@example.org"])
    assert (len(handler.messages), handler.all) == (10, 3)


def test_a_refused_email_leaves_the_connection_usable() -> None:
    handler = Counting()
    handler.answers = {"gone@example.org": "550 unknown"}
    with counted(handler, mails_per_connection=100, most_connections=1) as (mailer, _):
        for _ in range(3):
            with pytest.raises(MessageRefused):
                mailer.send(mail(), ["gone@example.org"])
            mailer.send(mail(), ["ada@example.org"])
    assert (len(handler.messages), handler.all) == (3, 1)


def test_a_connection_that_the_server_has_closed_is_not_used() -> None:
    with scripted(b"220 hello\r\n", OK, OK, OK, OK, None) as (port, _):
        server = SmtpServer("smtp", "127.0.0.1", port)
        mailer = SmtpMailer(server, host_name="example.com", timeout_seconds=0.3, mails_per_connection=10)
        assert mailer.send(mail(), ["ada@example.org"]) == ()
        with pytest.raises(MailServerUnavailable, match="cannot be reached"):
            mailer.send(mail(), ["ada@example.org"])  # a new connection, which this server does not take
        mailer.close()


def test_no_more_connections_are_open_than_allowed() -> None:
    handler = Counting(most=2)
    with counted(handler, mails_per_connection=5, most_connections=2) as (mailer, _), ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda _: mailer.send(mail(), ["ada@example.org"]), range(24))) == [()] * 24
    assert len(handler.messages) == 24


def test_a_server_that_allows_fewer_connections_gets_fewer() -> None:
    handler = Counting(most=2)
    with counted(handler, mails_per_connection=100, most_connections=6) as (mailer, _), ThreadPoolExecutor(6) as pool:
        assert list(pool.map(lambda _: mailer.send(mail(), ["ada@example.org"]), range(30))) == [()] * 30
    assert len(handler.messages) == 30


def test_a_server_without_room_for_the_first_connection_is_asked_again_soon() -> None:
    with counted(Counting(most=0)) as (mailer, _), pytest.raises(TooManyConnections, match=r"421 4\.7\.0"):
        mailer.send(mail(), ["ada@example.org"])


def test_a_server_that_says_at_the_second_greeting_that_it_has_no_room_is_asked_again_soon() -> None:
    with (
        scripted(b"220 hello\r\n", b"421 4.7.0 Too many connections\r\n", None) as (port, _),
        pytest.raises(TooManyConnections, match=r"421 4\.7\.0"),
    ):
        mailer_for(port).send(mail(), ["ada@example.org"])


@pytest.mark.parametrize("words", ["421 4.7.0 closing", "452 4.5.3 Too many messages in this session"])
def test_a_server_that_takes_fewer_emails_over_a_connection_gets_the_next_one_over_another(words: str) -> None:
    class Tired(Counting):
        async def handle_MAIL(  # noqa: N802  the name that aiosmtpd calls
            self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
        ) -> str:
            begun: int = getattr(session, "begun", 0)
            if begun == 2:
                return words
            session.begun = begun + 1  # type: ignore[attr-defined]
            return await super().handle_MAIL(server, session, envelope, address, options)

    handler = Tired()
    with counted(handler, mails_per_connection=10, most_connections=1) as (mailer, _):
        for _ in range(5):
            assert mailer.send(mail(), ["ada@example.org"]) == ()
    assert (len(handler.messages), handler.all) == (5, 3)


def test_an_idle_connection_is_closed() -> None:
    closed = threading.Event()

    class Watched(Counting):
        def factory(self, **options: Any) -> SMTP:
            server = super().factory(**options)
            lost = server.connection_lost

            def connection_lost(error: Exception | None) -> None:
                lost(error)
                closed.set()

            server.connection_lost = connection_lost  # type: ignore[method-assign]
            return server

    controller = CountingController(Watched())
    controller.start()
    dialler = Dialler(SmtpServer("smtp", "127.0.0.1", controller.port), "example.com", 5)
    connections = Connections(dialler.dial, mails=10, idle=0.05)
    with connections.lend() as session:
        assert session.is_alive()
    assert closed.wait(5)
    connections.close()
    controller.stop()


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


TOKEN = b"334 eyJzdGF0dXMiOiI0MDEifQ==\r\n"


def test_an_access_token_is_read_at_each_login_and_never_shown(tmp_path: Path) -> None:
    token = tmp_path / "token"
    bearer = b"220 hello\r\n", b"250-hello\r\n250 AUTH XOAUTH2\r\n"
    for number, replies in enumerate(((b"235 fine\r\n", OK, OK, OK, OK), (TOKEN, b"535 5.7.8 expired\r\n"))):
        token.write_text(f"swordfish-{number}\n")
        with scripted(*bearer, *replies) as (port, heard):
            mailer = SmtpMailer(
                SmtpServer("smtp", "127.0.0.1", port, username="ada", password=SecretStr("")),
                host_name="example.com",
                timeout_seconds=5,
                access_token=token,
            )
            if number == 0:
                assert mailer.send(mail(), ["ada@example.org"]) == ()
            else:
                with pytest.raises(MailServerMisconfigured, match=r"refused the credentials \(535\)") as failed:
                    mailer.send(mail(), ["ada@example.org"])
                shown = everything_a_report_could_hold(failed.value)
                assert "swordfish" not in shown
        said = base64.b64decode(heard[1].split()[-1])
        assert said == f"user=ada\x01auth=Bearer swordfish-{number}\x01\x01".encode()
    token.unlink()
    with scripted(*bearer) as (port, _), pytest.raises(MailServerMisconfigured, match="EMAIL_ACCESS_TOKEN_PATH"):
        SmtpMailer(
            SmtpServer("smtp", "127.0.0.1", port, username="ada", password=SecretStr("")),
            host_name="example.com",
            timeout_seconds=5,
            access_token=token,
        ).send(mail(), ["ada@example.org"])


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
