"""How everything here asks Redis: in bounded time, and with one error for all that can go wrong."""

from collections.abc import Callable, Sequence
from typing import Any, Final

import redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from jobkit.addresses.store import store_url
from jobkit.errors import SettingsError
from jobkit.store.redis_errors import is_lost, translate

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
        namespace: Tells apart the keys of environments that share the Redis.

    Raises:
        SettingsError: The address is none.
    """

    def __init__(self, url: str, timeout: float, namespace: str = "") -> None:
        self._prefix = f"{namespace}:jobkit:" if namespace else "jobkit:"
        try:
            self._url = url = store_url(url)
        except ValueError as error:
            raise SettingsError(f"JOBKIT_STORE_URL: {error}") from None
        self._redis = redis.Redis.from_url(
            url,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            # redis-py repeats inside of connecting and again around it: one retry made four time-outs of one.
            retry=Retry(NoBackoff(), 0),
            protocol=2,  # with 3, redis-py lets the server raise the time-outs ("maintenance notifications")
            client_name="jobkit",
        )

    def key(self, name: str) -> str:
        """Return the key under which Redis keeps ``name``. Every key that is asked for is made here."""
        return self._prefix + name

    def script(self, lua: str) -> Script:
        """Return a function that runs ``lua`` with its KEYS and ARGV, and raises like ``ask``."""
        registered = self._redis.register_script(lua)
        return lambda keys, args: self._call(registered, keys, args)

    def ask(self, command: str, *arguments: Argument) -> Any:
        """Return Redis's answer to a command.

        Raises:
            StoreUnavailable: It did not answer, or not now; ``StoreRefused`` if only a person can change that.
            RecordUnreadable: What is stored under the key is nothing of ours.
        """
        return self._call(self._redis.execute_command, command, *arguments)

    def close(self) -> None:
        self._redis.close()

    def _call(self, command: Callable[..., Any], *arguments: object) -> Any:
        try:
            return command(*arguments)
        except RedisError as error:
            if is_lost(error):
                # A primary that was demoted or cut off keeps its connections, while its name leads to another by now:
                # so the next call connects again. Connections in use are left to their threads, which redis-py throws
                # AttributeErrors at otherwise; they come here themselves.
                self._redis.connection_pool.disconnect(inuse_connections=False)
            raise translate(error, self._url) from error
