"""What a process tries at its start covers all that jobs need later, and leaves nothing behind."""

import os
import re
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from importlib.resources import files
from urllib.parse import urlsplit

import pytest
import redis

from jobkit.breaker.exercise import exercise_switches
from jobkit.breaker.redis import RedisSwitches
from jobkit.breaker.switches import MemorySwitches
from jobkit.errors import StoreRefused
from jobkit.schedule.registry import RedisSchedules
from jobkit.store.exercise import ACTOR, RECORD_TTL, exercise
from jobkit.store.memory import MemoryStore
from jobkit.store.redis import RedisStore

DRY_RUNS: dict[str, Callable[[str], None]] = {
    "records": lambda url: exercise(RedisStore(url, RECORD_TTL), "files"),
    "breakers": lambda url: exercise_switches(RedisSwitches(url), "files"),
    "announcements": lambda url: RedisSchedules(url).check_announcing(),
    "ticks": lambda url: RedisSchedules(url).check(),
}

#: The keys that each of them needs.
KEYS = {
    "records": [
        "jobkit:job:files:*",
        "jobkit:breaker:files/*",
        "jobkit:done:files:*",
        "jobkit:result:files:*",
        "jobkit:process:*",
        "jobkit:processes:files:*",
    ],
    "breakers": ["jobkit:breaker:files/*", "jobkit:breakers"],
    "announcements": ["jobkit:schedules", "jobkit:schedules:ticks", "jobkit:schedules:rounds", "jobkit:actors"],
    "ticks": ["jobkit:schedules", "jobkit:schedules:ticks"],
}


@pytest.fixture
def admin(redis_url: str) -> Iterator["redis.Redis"]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def limited(redis_url: str, admin: "redis.Redis") -> Iterator[Callable[..., str]]:
    """Makes the address of a user with these rights only."""
    name, parts = f"user-{uuid.uuid4().hex[:8]}", urlsplit(redis_url)

    def user(*rules: str) -> str:
        admin.execute_command("ACL", "SETUSER", name, "reset", "on", ">s3cret", *rules)  # type: ignore[no-untyped-call]
        return parts._replace(netloc=f"{name}:s3cret@{parts.hostname}:{parts.port}").geturl()

    yield user
    admin.execute_command("ACL", "DELUSER", name)  # type: ignore[no-untyped-call]


def test_the_dry_runs_use_every_command_of_every_script(redis_url: str, admin: "redis.Redis") -> None:
    scripts = [
        path.read_text() for part in ("store", "schedule") for path in (files(f"jobkit.{part}") / "lua").iterdir()
    ]
    scripts.append((files("jobkit.breaker") / "redis.py").read_text())
    needed = {name.lower() for script in scripts for name in re.findall(r"redis\.p?call\('(\w+)'", script)}
    assert {"hset", "hsetnx", "hincrby", "sadd", "pexpire"} <= needed, "the scripts are found"
    admin.config_resetstat()
    for dry_run in DRY_RUNS.values():
        dry_run(redis_url)
    used = {name.removeprefix("cmdstat_") for name in admin.info("commandstats")}
    assert needed <= used


@pytest.mark.parametrize("name", DRY_RUNS)
def test_a_dry_run_needs_only_its_keys_and_leaves_nothing(
    name: str, limited: Callable[..., str], admin: "redis.Redis"
) -> None:
    DRY_RUNS[name](limited("+@all", *(f"~{key}" for key in KEYS[name])))
    left = [os.fsdecode(key) for key in admin.keys("*")]
    own = f"files:{ACTOR}"
    kinds = (
        f"jobkit:job:{own}:",
        f"jobkit:done:{own}:",
        f"jobkit:result:{own}:",
        "jobkit:process:",
        f"jobkit:processes:{own}",
    )
    assert all(key.startswith(kinds) for key in left)
    assert all(0 < admin.pttl(key) <= 20_000 for key in left), "records are gone soon"


@pytest.mark.parametrize(("name", "key"), [(name, key) for name, keys in KEYS.items() for key in keys])
def test_a_key_that_may_be_read_only_is_refused(name: str, key: str, limited: Callable[..., str]) -> None:
    others = [f"~{other}" for other in KEYS[name] if other != key]
    if (name, key) == ("ticks", "jobkit:schedules"):
        DRY_RUNS[name](limited("+@all", f"%R~{key}", *others))  # a scheduler only reads them
        return
    with pytest.raises(StoreRefused, match="does not permit what job records need"):
        DRY_RUNS[name](limited("+@all", f"%R~{key}", *others))


@pytest.mark.parametrize("command", ["hset", "hincrby", "hdel"])
def test_a_dry_run_of_schedules_that_is_refused_half_way_leaves_nothing(
    command: str, limited: Callable[..., str], admin: "redis.Redis"
) -> None:
    registry = RedisSchedules(limited("+@all", f"-{command}", "~*"))
    for dry_run in (registry.check, registry.check_announcing):
        with pytest.raises(StoreRefused):
            dry_run()
    assert admin.keys("*") == []


def test_a_breaker_of_a_dry_run_is_shown_to_nobody(redis_url: str) -> None:
    for switches in (MemorySwitches(), RedisSwitches(redis_url)):
        switches.trip("files/jobkit.access-1", "a", pause=timedelta(minutes=1), longest=timedelta(minutes=1))
        switches.trip("files/smtp", "a", pause=timedelta(minutes=1), longest=timedelta(minutes=1))
        assert [breaker.name for breaker in switches.opened()] == ["files/smtp"]


def test_the_dry_runs_work_in_memory_too() -> None:
    exercise(MemoryStore(), "files")
    switches = MemorySwitches()
    exercise_switches(switches, "files")
    assert not switches._rows
