"""How to reach the broker, and what its errors mean to the person who reads the log."""

import os
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field

import pika
import pika.exceptions
from pika.adapters.utils.connection_workflow import AMQPConnectorException

from jobkit.broker.lenient import LenientConnection, NoAmqp

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
#: NOT_ALLOWED as well, but this passes: the connections of whoever was here before are still being closed.
_AT_THE_LIMIT = re.compile(r"limit \(\d+\) is reached")


@dataclass(frozen=True)
class ConnectionSettings:
    """The nodes of one broker and how patient to be with them.

    Attributes:
        urls: ``amqp://`` or ``amqps://`` URLs, tried in this order. TLS options go into the query as pika documents
            them (``ssl_options``).
        heartbeat: Seconds of silence after which a connection counts as dead.
        connect_timeout: Seconds for one attempt.
        name: Shown in RabbitMQ's management page beside host and process id.
    """

    urls: Sequence[str] = field(repr=False)  # they hold passwords
    heartbeat: int = 30
    connect_timeout: float = 5.0
    name: str = "jobkit"

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
                parameters.stack_timeout = self.connect_timeout * 2
            parameters.client_properties = {"connection_name": f"{self.name}@{socket.gethostname()}:{os.getpid()}"}
            built.append(parameters)
        return built

    @property
    def where(self) -> str:
        """The nodes without their passwords, for messages."""
        nodes = [pika.URLParameters(url) for url in self.urls]
        return ", ".join(f"{node.host}:{node.port}/{node.virtual_host.removeprefix('/')}" for node in nodes)

    def open(self) -> pika.BlockingConnection:
        """A connection to the first node that answers; raises pika's ``AMQPConnectionError``."""
        return _connect(self.known_nodes())

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
        return known

    def describe(self, error: BaseException) -> str:
        """One line that says what is so and what to do about it."""
        error = _innermost(error)
        if isinstance(error, NoAmqp | pika.exceptions.ProtocolVersionMismatch):
            return f"what answers at {self.where} is no AMQP broker: check host, port and TLS in JOBKIT_BROKER_URL"
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
