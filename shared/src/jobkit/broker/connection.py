"""How to reach the broker, and what its errors mean to the person who reads the log."""

import os
import re
import socket
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import pika
import pika.exceptions
from pika.adapters.utils.connection_workflow import AMQPConnectorException

from jobkit.addresses import tls
from jobkit.broker.lenient import LenientConnection, NoAmqp
from jobkit.errors import SettingsError

#: A header frame may not be larger (RabbitMQ's ``frame_max``); record headers are capped well below.
FRAME_MAX = 131_072

#: What a connection raises when it is gone.
CONNECTION_LOST = (pika.exceptions.AMQPError, AssertionError, OSError)

#: Pika takes every end of a handshake for a refusal, by how far it had come, and keeps what was said as a text only.
_GUESSES = {
    pika.exceptions.IncompatibleProtocolError: "before it said anything; if that lasts, check host, port and TLS",
    pika.exceptions.ProbableAuthenticationError: "at the login; if that lasts, check user and password",
    pika.exceptions.ProbableAccessDeniedError: "at opening the vhost; if that lasts, check the vhost and its limits",
}
_BROKERS_WORDS = re.compile(r"ConnectionClosedByBroker: \((\d+)\) ['\"](.*)['\"]", re.DOTALL)

#: The reply codes of a refusal: ACCESS_REFUSED (RabbitMQ's for the login) and NOT_ALLOWED (for the vhost).
_REFUSALS = frozenset({403, 530})
_ACCESS_REFUSED = 403
_NOT_FOUND = 404
_PERMISSIONS = "give the user in JOBKIT_BROKER_URL the permissions of docs/how-to/rabbitmq.md"
_CA = "?ssl_options={'ca_certs': '/path/ca.pem'}, percent-encoded"
#: NOT_ALLOWED as well, but this passes: the connections of whoever was here before are still being closed.
_AT_THE_LIMIT = re.compile(r"limit \(\d+\) is reached")


#: The routing key of a message that is published to see whether that is permitted. No queue has this name; if one
#: does, the message is gone in a moment.
NOWHERE = "jobkit.access"
SHORT_LIVED = pika.BasicProperties(expiration="1000")


class Blocked(Exception):
    """The broker takes no messages from anybody; the text is its reason, such as ``low on memory``."""


@dataclass(frozen=True)
class ConnectionSettings:
    """The nodes of one broker and how patient to be with them.

    Attributes:
        urls: ``amqp://`` or ``amqps://`` URLs, tried in this order, but the one that answered last is tried first. TLS
            options go into the query as pika documents them (``ssl_options``).
        heartbeat: Seconds of silence after which a connection counts as dead.
        connect_timeout: Seconds for one attempt, from the first packet to the end of the login.
        name: Shown in RabbitMQ's management page beside host and process id.
    """

    urls: Sequence[str] = field(repr=False)  # they hold passwords
    heartbeat: int = 10
    connect_timeout: float = 5.0
    name: str = "jobkit"
    _answered: list[tuple[str, int]] = field(default_factory=list, repr=False, compare=False)

    @property
    def longest_attempt(self) -> float:
        """Seconds that one attempt to connect may take, if each node is silent."""
        return sum(node.stack_timeout or 0.0 for node in self.parameters())

    def note_answer(self, node: pika.connection.Parameters) -> None:
        """Try this node first from now on: one that is silent costs a time-out each time that it is asked."""
        self._answered[:] = [(node.host, node.port)]

    def parameters(self) -> list[pika.URLParameters]:
        """What pika needs, one for each node; what a URL's query says wins over the settings."""
        built = []
        for url in self.urls:
            parameters = pika.URLParameters(url)
            if "heartbeat=" not in url:
                parameters.heartbeat = self.heartbeat
            if "socket_timeout=" not in url:
                parameters.socket_timeout = self.connect_timeout
            if "stack_timeout=" not in url:
                parameters.stack_timeout = self.connect_timeout  # with TLS and the login: a silent node costs no more
            parameters.client_properties = {"connection_name": f"{self.name}@{socket.gethostname()}:{os.getpid()}"}
            built.append(parameters)
        return built

    @property
    def where(self) -> str:
        """The nodes without their passwords, for messages."""
        nodes = [pika.URLParameters(url) for url in self.urls]
        return ", ".join(f"{node.host}:{node.port}/{node.virtual_host.removeprefix('/')}" for node in nodes)

    def open(self, *, blocked_for: float | None = None) -> pika.BlockingConnection:
        """Return a connection to the first node that answers; raises pika's ``AMQPConnectionError``.

        Args:
            blocked_for: Seconds after which it is closed if the broker takes no messages (a memory or disk alarm).
        """
        nodes = self.known_nodes()
        for node in nodes if blocked_for is not None else ():
            node.blocked_connection_timeout = blocked_for
        connection = _connect(nodes)
        if len(nodes) > 1:
            self.note_answer(connection._impl.params)
        return connection

    def demand(self) -> None:
        """Connect once. Outages are ignored, because they pass.

        Raises:
            SettingsError: The broker refuses the login, or what answers is no broker.
        """
        with self._demanding():
            self.open().close()

    def demand_writing(self, *ways: Sequence[str]) -> None:
        """Publish messages that reach no queue; otherwise as ``demand``.

        Args:
            ways: Each names exchanges, of which the user must be allowed to write to one; by default, the default
                exchange. One that does not exist yet counts if the user may write to it.
        """
        with self._demanding(), self.open(blocked_for=self.connect_timeout) as connection:
            for exchanges in ways or [("",)]:
                refusals = [refusal for exchange in exchanges if (refusal := _refused(connection, exchange))]
                if len(refusals) == len(exchanges):
                    raise refusals[0]

    @contextmanager
    def _demanding(self) -> Iterator[None]:
        try:
            yield
        except CONNECTION_LOST as error:
            if is_misconfigured(error):
                raise SettingsError(self.describe(error)) from error

    def known_nodes(self) -> list[pika.URLParameters]:
        """What pika needs, for the nodes whose names resolve; raises ``AMQPConnectionError`` if none does.

        Pika gives up at the first name that is unknown, as that of a dead pod is.
        """
        known = []
        for node in self.parameters():
            try:
                socket.getaddrinfo(node.host, node.port, type=socket.SOCK_STREAM)
            except socket.gaierror as error:
                unknown = error
            else:
                known.append(node)
        if not known:
            raise pika.exceptions.AMQPConnectionError(
                f"its host name does not resolve ({unknown.strerror})"
            ) from unknown
        return sorted(known, key=lambda node: (node.host, node.port) not in self._answered)

    def describe(self, error: BaseException) -> str:
        """Return one line that says what happened and what to do about it."""
        if isinstance(error, Blocked):
            return (
                f"RabbitMQ at {self.where} takes no messages, it is {error}: free what it lacks, or raise its limit "
                "(vm_memory_high_watermark, disk_free_limit)"
            )
        error = _innermost(error)
        if isinstance(error, ssl.SSLError):
            words = tls.advice(error, ca=_CA, plain="Check the port (5671), or use amqp://")
            return f"RabbitMQ at {self.where} (JOBKIT_BROKER_URL) cannot be reached over TLS: {words}"
        if isinstance(error, NoAmqp | pika.exceptions.ProtocolVersionMismatch):
            return f"what answers at {self.where} is no AMQP broker: check host, port and TLS in JOBKIT_BROKER_URL"
        if isinstance(error, pika.exceptions.ChannelClosedByBroker):
            hint = _PERMISSIONS if error.reply_code == _ACCESS_REFUSED else "see RabbitMQ's log"
            return f"RabbitMQ at {self.where} answered {error.reply_code}: {error.reply_text.rstrip('.')}; {hint}"
        if is_misconfigured(error):
            if isinstance(error, pika.exceptions.ProbableAccessDeniedError):
                return f"RabbitMQ at {self.where} has no such vhost, or the user in JOBKIT_BROKER_URL may not use it"
            return f"RabbitMQ at {self.where} refused the user or password in JOBKIT_BROKER_URL"
        text = str(error) or "nothing answers there"
        for guess, when in _GUESSES.items():
            if isinstance(error, guess):
                _code, words = _brokers_words(error)
                text = f"it closed the connection {when}" + (f" (it said: {words})" if words else "")
        return f"RabbitMQ at {self.where} (JOBKIT_BROKER_URL) cannot be reached: {text}"


def _refused(connection: pika.BlockingConnection, exchange: str) -> pika.exceptions.ChannelClosedByBroker | None:
    """Return how the broker refuses the user's messages to an exchange; None if it does not."""
    channel = connection.channel()
    channel.confirm_delivery()
    try:
        channel.basic_publish(exchange, NOWHERE, b"", SHORT_LIVED, mandatory=True)
    except pika.exceptions.UnroutableError:
        pass
    except pika.exceptions.ChannelClosedByBroker as error:
        # The exchange comes first: a refused key (https://www.rabbitmq.com/docs/access-control#topic-authorisation) is
        # this message's alone.
        if error.reply_code == _ACCESS_REFUSED and "access to topic" not in error.reply_text:
            return error
        if error.reply_code not in {_ACCESS_REFUSED, _NOT_FOUND}:
            raise
        return None
    channel.close()
    return None


def _connect(nodes: Sequence[pika.URLParameters]) -> pika.BlockingConnection:
    try:
        # Its signature names the class that it may be given, where it means an instance; pika itself never sets it.
        return pika.BlockingConnection(nodes, _impl_class=LenientConnection)  # type: ignore[arg-type]
    except AMQPConnectorException as error:  # a time-out; pika lets it out without the type that it promises
        raise pika.exceptions.AMQPConnectionError(f"no answer in time ({type(error).__name__})") from error
    except ValueError as error:  # what pika makes of a peer that hangs up at once, as a proxy without a backend does
        raise pika.exceptions.AMQPConnectionError(f"the connection was closed at once ({error})") from error


def is_misconfigured(error: BaseException) -> bool:
    """Whether waiting cannot help, because what answers has said so: that it refuses us, or that it is no broker.

    Whoever just hangs up may be a broker that is being started or stopped, or a proxy in front of one.
    """
    error = _innermost(error)
    if isinstance(error, pika.exceptions.ProbableAuthenticationError | pika.exceptions.ProbableAccessDeniedError):
        code, words = _brokers_words(error)
        return code in _REFUSALS and not _AT_THE_LIMIT.search(words)
    if isinstance(error, ssl.SSLError):
        return tls.needs_a_person(error)
    if isinstance(error, pika.exceptions.ChannelClosedByBroker):
        return bool(error.reply_code == _ACCESS_REFUSED)
    return isinstance(error, NoAmqp | pika.exceptions.ProtocolVersionMismatch | pika.exceptions.AuthenticationError)


def _brokers_words(error: BaseException) -> tuple[int, str]:
    """With which code and text the broker closed a connection that was being made; 0 if it only hung up."""
    found = _BROKERS_WORDS.search(str(error))
    return (int(found[1]), found[2]) if found else (0, "")


def _innermost(error: BaseException) -> BaseException:
    # pika wraps what happened into a "workflow failed" that lists the failures of all attempts.
    while True:
        causes = getattr(error, "exceptions", None) or [getattr(error, "exception", None)]
        if not isinstance(causes[-1], BaseException):
            return error
        error = causes[-1]
