"""The state of the breakers in the job store's Redis, for all workers."""

from datetime import UTC, datetime, timedelta
from typing import Final

from jobkit.breaker.switches import Closed, Open, OpenBreaker, Probe, Tripped, is_dry_run
from jobkit.store.redis_client import BREAKER, NOW, RedisClient
from jobkit.time import milliseconds

#: A breaker that nobody has asked for so long is closed.
_KEPT: Final = timedelta(days=1)

#: The names of breakers that were opened, so that nobody has to search all keys. It is cleared up when it is read.
_NAMES: Final = "breakers"

# A clock that was set back must not keep a breaker open for longer than it was opened for, hence the two min().
_WAIT: Final = f"""{NOW}
local row = redis.call('HMGET', KEYS[1], 'until', 'pause', 'probe', 'probe_until')
local wait = row[1] and math.min(tonumber(row[1]) - now, tonumber(row[2]))
"""

# ARGV: owner, probe ms
_ASK: Final = f"""{_WAIT}
if not wait then return {{'closed'}} end
if wait > 0 then return {{'open', string.format('%.0f', wait)}} end
local probing = math.min(tonumber(row[4] or 0) - now, tonumber(ARGV[2]))
if probing > 0 and row[3] ~= ARGV[1] then
  return {{'open', string.format('%.0f', math.min(probing, tonumber(row[2])))}}
end
redis.call('HSET', KEYS[1], 'probe', ARGV[1], 'probe_until', now + ARGV[2])
return {{'probe'}}
"""

_LOOK: Final = f"{_WAIT} return wait and math.max(0, wait)"

# KEYS: breaker, names. ARGV: owner, pause ms, longest ms, kept ms, name, reason
_TRIP: Final = f"""{_WAIT}
if wait and row[3] ~= ARGV[1] then return {{0, math.max(0, wait)}} end
local pause = wait and math.min(2 * row[2], tonumber(ARGV[3])) or tonumber(ARGV[2])
redis.call('HSET', KEYS[1], 'until', now + pause, 'pause', pause, 'reason', ARGV[6])
redis.call('HSETNX', KEYS[1], 'since', now)
redis.call('SADD', KEYS[2], ARGV[5])
redis.call('HDEL', KEYS[1], 'probe', 'probe_until')
redis.call('PEXPIRE', KEYS[1], pause + ARGV[4])
return {{1, pause}}
"""

# KEYS: breaker, names. ARGV: name
_DESCRIBE: Final = f"""{_WAIT}
if not wait then
  redis.call('SREM', KEYS[2], ARGV[1])
  return false
end
local told = redis.call('HMGET', KEYS[1], 'since', 'reason')
local probing = row[3] and tonumber(row[4]) > now and 1 or 0
return {{told[1] or string.format('%.0f', now), string.format('%.0f', math.max(0, wait)), probing, told[2] or ''}}
"""

# ARGV: owner
_CLOSE: Final = """
if redis.call('HGET', KEYS[1], 'probe') ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
"""

# ARGV: owner
_GIVE_UP: Final = """
if redis.call('HGET', KEYS[1], 'probe') == ARGV[1] then redis.call('HDEL', KEYS[1], 'probe', 'probe_until') end
"""

# KEYS: breaker, names. ARGV: name
_RESET: Final = """
redis.call('SREM', KEYS[2], ARGV[1])
return redis.call('DEL', KEYS[1])
"""


class RedisSwitches:
    """Keeps the promises of ``Switches`` across processes and machines.

    Args:
        url: ``redis://user:password@host:port/database``.
        timeout: Seconds to connect, and seconds for an answer.
        namespace: ``JOBKIT_NAMESPACE`` of the workers whose breakers these are.
    """

    def __init__(self, url: str, timeout: float = 2.0, namespace: str = "") -> None:
        client = RedisClient(url, timeout, namespace)
        self._names = client.key(_NAMES)
        self._ask = client.script(_ASK)
        self._look = client.script(_LOOK)
        self._trip = client.script(_TRIP)
        self._close = client.script(_CLOSE)
        self._give_up = client.script(_GIVE_UP)
        self._describe = client.script(_DESCRIBE)
        self._reset = client.script(_RESET)
        self._client = client

    def ask(self, name: str, owner: str, *, probe_for: timedelta) -> Closed | Open | Probe:
        match self._ask([self._key(name)], [owner, milliseconds(probe_for)]):
            case [b"closed"]:
                return Closed()
            case [b"open", wait]:
                return Open(timedelta(milliseconds=int(wait)))
            case _:
                return Probe()

    def look(self, name: str) -> timedelta | None:
        wait = self._look([self._key(name)], [])
        return None if wait is None else timedelta(milliseconds=int(wait))

    def trip(self, name: str, owner: str, *, pause: timedelta, longest: timedelta, reason: str = "") -> Tripped:
        args: list[str | int] = [owner, milliseconds(pause), milliseconds(longest), milliseconds(_KEPT), name, reason]
        anew, wait = self._trip([self._key(name), self._names], args)
        return Tripped(timedelta(milliseconds=int(wait)), anew=bool(anew))

    def close(self, name: str, owner: str) -> bool:
        return bool(self._close([self._key(name)], [owner]))

    def give_up_probe(self, name: str, owner: str) -> None:
        self._give_up([self._key(name)], [owner])

    def opened(self) -> list[OpenBreaker]:
        names = sorted(name.decode(errors="replace") for name in self._client.ask("SMEMBERS", self._names))
        found = ((name, self._describe([self._key(name), self._names], [name])) for name in names)
        return [_breaker(name, answer) for name, answer in found if answer and not is_dry_run(name)]

    def reset(self, name: str) -> bool:
        return bool(self._reset([self._key(name), self._names], [name]))

    def _key(self, name: str) -> str:
        return self._client.key(BREAKER.format(name=name))


def _breaker(name: str, answer: tuple[bytes, bytes, int, bytes]) -> OpenBreaker:
    since, wait, probing, reason = answer
    return OpenBreaker(
        name,
        datetime.fromtimestamp(int(since) / 1000, UTC),
        timedelta(milliseconds=int(wait)),
        bool(probing),
        reason.decode("utf-8", "replace"),
    )
