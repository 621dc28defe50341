"""What RabbitMQ's policies do to our queues: an operator's blanket policy may lose or delay jobs without a word."""

import base64
import json
from collections.abc import Collection, Iterator
from typing import Any, Final
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from jobkit.broker import due, ladder, topology
from jobkit.broker.connection import ConnectionSettings
from jobkit.deadletters import DUE_QUEUES

_TIMEOUT: Final = 10.0

#: What each of them does to jobs. Policies cannot change what a queue's own arguments say, but the lower of two limits
#: counts (https://www.rabbitmq.com/docs/parameters#policies).
_HARM: Final = {
    "message-ttl": "jobs and dead letters vanish after that many milliseconds, and delayed jobs run early",
    "expires": "the queue is deleted with all its jobs when it was not used for that many milliseconds",
    "max-length": "the queue refuses more jobs than that, also delayed and retried ones",
    "max-length-bytes": "the queue refuses more bytes than that, also of delayed and retried jobs",
}
_LIMIT: Final = "delivery-limit"


class Policies:
    """Asks the management API which policies apply to queues.

    Args:
        url: ``http://user:password@host:15672``; the user needs the tag ``monitoring``.
        connection: Which virtual host.
    """

    def __init__(self, url: str, connection: ConnectionSettings) -> None:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
        self.where = f"{parts.scheme}://{host}"
        vhost = quote(connection.parameters()[0].virtual_host, safe="")
        columns = "columns=name,policy,operator_policy,effective_policy_definition"
        self._url = urlunsplit((parts.scheme, host, f"{parts.path}/api/queues/{vhost}", columns, ""))
        login = f"{unquote(parts.username or 'guest')}:{unquote(parts.password or 'guest')}"
        self._login = base64.b64encode(login.encode()).decode()

    def warnings(self, queues: Collection[str]) -> list[str]:
        """Return a line for each policy that harms these queues, their dead-letter and due queues or the delay ladder.

        Raises:
            OSError: The API does not answer, or refuses us.
            ValueError: What answers is something else.
        """
        of_each = (topology.dead_letter_queue, due.due_queue)
        shared = (due.UNROUTABLE_QUEUE, *map(ladder.level_name, range(ladder.LEVELS)))
        ours = {*queues, *(name(queue) for name in of_each for queue in queues), *shared}
        found: dict[str, list[str]] = {}
        for queue in self._ask():
            if queue.get("name") in ours:
                for line in _harm(queue):
                    found.setdefault(line, []).append(queue["name"])
        return [f"{line} (queues {_few(sorted(names))})" for line, names in sorted(found.items())]

    def _ask(self) -> list[dict[str, Any]]:  # Any: JSON
        import urllib.request  # with http, so only for workers that have the address

        request = urllib.request.Request(self._url, headers={"Authorization": f"Basic {self._login}"})  # noqa: S310
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:  # noqa: S310  the settings allow http(s) only
            queues = json.load(answer)
        if not isinstance(queues, list):
            raise TypeError(f"{self.where} answers something else than a list of queues")
        return [queue for queue in queues if isinstance(queue, dict)]


def _harm(queue: dict[str, Any]) -> Iterator[str]:
    definition = queue.get("effective_policy_definition")
    names = " and ".join(repr(queue[kind]) for kind in ("policy", "operator_policy") if queue.get(kind))
    for key, value in (definition if isinstance(definition, dict) else {}).items():
        if key == "message-ttl" and str(queue.get("name")).startswith(DUE_QUEUES):
            continue  # its own time to live is zero
        if key in _HARM:
            yield f"the RabbitMQ policy {names} sets {key}={value}: {_HARM[key]}"
        elif key == _LIMIT and isinstance(value, int) and value < topology.DELIVERY_LIMIT:
            yield f"the RabbitMQ policy {names} sets {key}={value}: jobs of workers that die often are lost sooner"


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
