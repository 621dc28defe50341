"""How everything here asks Redis: in bounded time, and with one error for all that can go wrong."""

import hashlib
from collections.abc import Callable, Sequence
from functools import cache
from importlib.resources import files
from typing import Any, Final

import redis
from hiredis import pack_command
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError, ResponseError
from redis.retry import Retry

from jobkit.addresses.store import driver, store_url
from jobkit.errors import JobkitError, SettingsError, StoreUnavailable
from jobkit.store.redis_errors import is_lost, translate

Argument = str | bytes | int | float

# Any: redis-py types every answer as one union for the sync and the async client.
Script = Callable[[Sequence[str], Sequence[Argument]], Any]

#: The key of a breaker that is not closed, which breakers change and claims look at.
BREAKER: Final = "breaker:{name}"

#: No limit: each thread that waits for an answer has one, and redis-py would refuse it as the hundred and first.
_MOST_CONNECTIONS: Final = 2**31

#: Stands before a script that needs the time: Redis's own, in milliseconds, so that no worker's clock matters.
NOW: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""


@cache  # a supervisor has read them before it forks: each worker process would write to a megabyte to do so
def lua(package: str, *parts: str) -> str:
    """Return the text of a script, which is in files of the package's folder ``lua``."""
    folder = files(package) / "lua"
    return "".join((folder / f"{part}.lua").read_text("utf-8") for part in parts)


class Lua:
    """A script, and the name by which Redis knows it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()

    def call(self, keys: Sequence[str], args: Sequence[Argument]) -> tuple[Argument, ...]:
        """Return the command that runs it."""
        return ("EVALSHA", self._sha, len(keys), *keys, *args)


def _answer(connection: Any) -> Any:
    try:
        return connection.read_response()
    except ResponseError as error:
        return error


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
            max_connections=_MOST_CONNECTIONS,
            **driver(),
        )

    def key(self, name: str) -> str:
        """Return the key under which Redis keeps ``name``. Every key that is asked for is made here."""
        return self._prefix + name

    def script(self, lua: str) -> Script:
        """Return a function that runs ``lua`` with its KEYS and ARGV, and raises like ``ask``."""
        script = Lua(lua)
        return lambda keys, args: self._one(script, keys, args)

    def _one(self, script: Lua, keys: Sequence[str], args: Sequence[Argument]) -> Any:
        (answer,) = self.run([(script, keys, args)])
        if isinstance(answer, JobkitError):
            raise answer
        return answer

    def run(self, calls: Sequence[tuple[Lua, Sequence[str], Sequence[Argument]]]) -> list[Any]:
        """Run scripts, each with its KEYS and ARGV, in one round trip.

        Returns the answer of each, or the error that it alone has met.

        Raises:
            StoreUnavailable: Redis did not answer, or not now. Each script may have run.
        """
        answers = self._call(self._exchange, [script.call(keys, args) for script, keys, args in calls])
        missing = [number for number, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
        if missing:  # Redis was started anew, or sees them for the first time
            loads = [("SCRIPT", "LOAD", text) for text in {calls[number][0].text for number in missing}]
            again = self._call(
                self._exchange,
                [*loads, *(script.call(keys, args) for script, keys, args in (calls[number] for number in missing))],
            )
            for number, answer in zip(missing, again[len(loads) :], strict=True):
                answers[number] = answer
        told = [translate(answer, self._url) if isinstance(answer, RedisError) else answer for answer in answers]
        for answer in told:
            if isinstance(answer, StoreUnavailable):  # of memory that is full, for one: so it is for all of them
                raise answer
        return told

    def _exchange(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Send commands together, and read what each is answered, or the error that Redis answers it with."""
        pool = self._redis.connection_pool
        connection: Any = pool.get_connection()  # of which redis-py types no more than the constructor
        try:
            # In one write: else Redis answers, and writes to its disk, in parts.
            connection.send_packed_command([b"".join(map(pack_command, commands))])
            answers = [_answer(connection) for _ in commands]
        except BaseException:
            connection.disconnect()  # what it still has to say is no answer to the next question
            raise
        finally:
            pool.release(connection)
        for answer in answers:
            if isinstance(answer, RedisError) and is_lost(answer):
                raise answer
        return answers

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
