"""How everything here asks Redis: in bounded time, and with one error for all that can go wrong."""

from collections.abc import Callable, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, RedisError
from redis.retry import Retry

from jobkit.errors import StoreUnavailable

Argument = str | bytes | int | float

# Any: redis-py types every answer as one union for the sync and the async client.
Script = Callable[[Sequence[str], Sequence[Argument]], Any]

#: Stands before a script that needs the time: Redis's own, in milliseconds, so that no worker's clock matters.
NOW: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""


class RedisClient:
    """One Redis, for all threads of a process.

    A call to a Redis that hangs ends after at most two ``timeout``: one to connect, one for the answer. Nothing is sent
    twice, as waiting out an outage is its user's decision; a connection that Redis has closed meanwhile is replaced
    before it is used.

    Args:
        url: ``redis://user:password@host:port/database``; ``rediss://`` and ``unix://`` too.
        timeout: Seconds to connect, to each address of the host, and seconds for an answer.
    """

    def __init__(self, url: str, timeout: float) -> None:
        self._url = url
        self._redis = redis.Redis.from_url(
            url,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            # redis-py repeats inside of connecting and again around it: one retry made four time-outs of one.
            retry=Retry(NoBackoff(), 0),
            protocol=2,  # with 3, redis-py lets the server raise the time-outs ("maintenance notifications")
            client_name="jobkit",
        )

    def script(self, lua: str) -> Script:
        """A function that runs ``lua`` with these KEYS and ARGV, and raises ``StoreUnavailable``."""
        registered = self._redis.register_script(lua)
        return lambda keys, args: self._call(registered, keys, args)

    def ask(self, command: str, *arguments: Argument) -> Any:
        """Redis's answer to a command; raises ``StoreUnavailable``."""
        return self._call(self._redis.execute_command, command, *arguments)

    def close(self) -> None:
        self._redis.close()

    def _call(self, command: Callable[..., Any], *arguments: object) -> Any:
        try:
            return command(*arguments)
        except RedisError as error:
            # A primary that was demoted or cut off keeps its connections and refuses each write (READONLY, NOREPLICAS),
            # while its name leads to another by now: so the next call connects anew. Connections in use are left to
            # their threads, which redis-py throws AttributeErrors at otherwise; they come here themselves.
            self._redis.connection_pool.disconnect(inuse_connections=False)
            raise StoreUnavailable(describe(error, self._url)) from error


def describe(error: RedisError, url: str) -> str:
    """One line that says what to do about an error of the store, without any password."""
    parts = urlsplit(url)  # the query may hold a password too
    where = f"{parts.netloc}{parts.path}".rsplit("@", 1)[-1]
    if isinstance(error, AuthenticationError):
        return f"Redis at {where} refused the user or password in JOBKIT_STORE_URL ({error})"
    return f"Redis at {where} (JOBKIT_STORE_URL) does not take commands: {error}"
