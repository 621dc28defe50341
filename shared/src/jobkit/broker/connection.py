"""How to reach the broker, and what its errors mean to the person who reads the log."""

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field

import pika
import pika.exceptions
from pika.adapters.utils.connection_workflow import AMQPConnectorException

from jobkit.broker.lenient import LenientConnection

#: A header frame may not be larger (RabbitMQ's ``frame_max``); record headers are capped well below.
FRAME_MAX = 131_072


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
        nodes = self.parameters()
        try:
            return _connect(nodes)
        except socket.gaierror as error:  # pika gives up at the first name that is unknown, as that of a dead pod is
            known = [node for node in nodes if _resolves(node)]
            if not known:
                raise pika.exceptions.AMQPConnectionError(
                    f"its host name does not resolve ({error.strerror})"
                ) from error
            return _connect(known)

    def describe(self, error: BaseException) -> str:
        """One line that says what is so and what to do about it."""
        error = _innermost(error)
        if isinstance(error, pika.exceptions.ProbableAuthenticationError | pika.exceptions.AuthenticationError):
            return f"RabbitMQ at {self.where} refused the user or password in JOBKIT_BROKER_URL"
        if isinstance(error, pika.exceptions.ProbableAccessDeniedError):
            return f"RabbitMQ at {self.where} has no such vhost, or the user in JOBKIT_BROKER_URL may not use it"
        if isinstance(error, pika.exceptions.IncompatibleProtocolError):
            return f"what answers at {self.where} is no AMQP broker: check host, port and TLS in JOBKIT_BROKER_URL"
        text = str(error) or "nothing answers there"
        return f"RabbitMQ at {self.where} (JOBKIT_BROKER_URL) cannot be reached: {text}"


def _connect(nodes: Sequence[pika.URLParameters]) -> pika.BlockingConnection:
    try:
        # Its signature names the class that it may be given, where it means an instance; pika itself never sets it.
        return pika.BlockingConnection(nodes, _impl_class=LenientConnection)  # type: ignore[arg-type]
    except AMQPConnectorException as error:  # a time-out; pika lets it out without the type that it promises
        raise pika.exceptions.AMQPConnectionError(f"no answer in time ({type(error).__name__})") from error
    except ValueError as error:  # what pika makes of a peer that hangs up at once, as a proxy without a backend does
        raise pika.exceptions.AMQPConnectionError(f"the connection was closed at once ({error})") from error


def _resolves(node: pika.URLParameters) -> bool:
    try:
        return bool(socket.getaddrinfo(node.host, node.port, type=socket.SOCK_STREAM))
    except socket.gaierror:
        return False


def is_misconfigured(error: BaseException) -> bool:
    """Whether waiting cannot help, because the broker answers and refuses what we are."""
    refusals = (
        pika.exceptions.ProbableAuthenticationError,
        pika.exceptions.AuthenticationError,
        pika.exceptions.ProbableAccessDeniedError,
        pika.exceptions.IncompatibleProtocolError,
    )
    return isinstance(_innermost(error), refusals)


def _innermost(error: BaseException) -> BaseException:
    # pika wraps what happened into a "workflow failed" that lists the failures of all attempts.
    while True:
        causes = getattr(error, "exceptions", None) or [getattr(error, "exception", None)]
        if not isinstance(causes[-1], BaseException):
            return error
        error = causes[-1]
