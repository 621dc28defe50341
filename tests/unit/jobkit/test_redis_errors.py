"""Which errors of Redis pass by themselves, which only a person can end, and which concern one record."""

import pytest
from redis._parsers import BaseParser
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from jobkit.errors import JobkitError, RecordUnreadable, StoreFull, StoreRefused, StoreUnavailable
from jobkit.store.redis_errors import is_lost, translate

URL = "redis://jobs:s3cret@redis:6379/0"
IN_A_SCRIPT = "script: 39fe729bede53cdc, on @user_script:45."


def answered(text: str) -> RedisError:
    """The error that redis-py makes of a server's answer."""
    error = BaseParser.parse_error(text)  # type: ignore[no-untyped-call]  # redis-py types it not
    assert isinstance(error, RedisError)
    return error


def kind(error: RedisError) -> type[JobkitError]:
    translated = translate(error, URL)
    assert "s3cret" not in str(translated)
    assert "redis:6379" in str(translated)
    return type(translated)


OUTAGES = [
    "LOADING Redis is loading the dataset in memory",
    "READONLY You can't write against a read only replica.",
    f"READONLY You can't write against a read only replica. {IN_A_SCRIPT}",
    "NOREPLICAS Not enough good replicas to write.",
    "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.",
    f"MISCONF Errors writing to the AOF file: No space left on device {IN_A_SCRIPT}",
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
    "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
    "TRYAGAIN Multiple keys request during rehashing of slot",
    "CLUSTERDOWN The cluster is down",
    "ERR max number of clients reached",
]

FULL = [
    "OOM command not allowed when used memory > 'maxmemory'.",
    f"OOM command not allowed when used memory > 'maxmemory'. {IN_A_SCRIPT}",
]

REFUSALS = [
    "WRONGPASS invalid username-password pair or user is disabled.",
    "NOAUTH Authentication required.",
    "ERR invalid password",
    "ERR AUTH <password> called without any password configured for the default user. Are you sure?",
    "NOPERM this user has no permissions to run the 'evalsha' command",
    "NOPERM this user has no permissions to access one of the keys used as arguments",
    f"ERR The user executing the script can't run this command or subcommand {IN_A_SCRIPT}",
    f"ERR ACL failure in script: User jobs has no permissions to run the 'hset' command {IN_A_SCRIPT}",
    "MOVED 3999 10.0.0.2:6381",
    "ASK 3999 10.0.0.2:6381",
    "CROSSSLOT Keys in request don't hash to the same slot",
    f"ERR Script attempted to access a non local key in a cluster node {IN_A_SCRIPT}",
    "DENIED Redis is running in protected mode because protected mode is enabled",
    "ERR DB index is out of range",
    "ERR unknown command 'EVALSHA', with args beginning with: ",
    f"ERR Unknown Redis command called from script {IN_A_SCRIPT}",
    "ERR Error compiling script (new function): user_script:1: '=' expected near 'x'",
]

RECORDS = [
    "WRONGTYPE Operation against a key holding the wrong kind of value",
    f"WRONGTYPE Operation against a key holding the wrong kind of value {IN_A_SCRIPT}",
    f"ERR user_script:33: attempt to compare number with nil {IN_A_SCRIPT}",
]


@pytest.mark.parametrize("text", OUTAGES)
def test_what_passes_by_itself_is_an_outage(text: str) -> None:
    assert kind(answered(text)) is StoreUnavailable


@pytest.mark.parametrize("text", FULL)
def test_a_store_without_room_is_an_outage_that_says_so(text: str) -> None:
    assert kind(answered(text)) is StoreFull
    assert issubclass(StoreFull, StoreUnavailable)


@pytest.mark.parametrize("error", [RedisConnectionError("refused"), RedisTimeoutError("no answer")])
def test_a_store_that_does_not_answer_is_an_outage(error: RedisError) -> None:
    assert kind(error) is StoreUnavailable
    assert is_lost(error)


@pytest.mark.parametrize("text", REFUSALS)
def test_what_only_a_person_can_end_is_a_refusal(text: str) -> None:
    assert kind(answered(text)) is StoreRefused


def test_what_speaks_no_redis_is_a_refusal() -> None:
    assert kind(InvalidResponse("Protocol Error: b'HTTP/1.1 400 Bad Request'")) is StoreRefused


@pytest.mark.parametrize("text", RECORDS)
def test_what_lies_in_the_place_of_one_record_concerns_that_job_alone(text: str) -> None:
    assert kind(answered(text)) is RecordUnreadable


@pytest.mark.parametrize("text", [*OUTAGES, *FULL, *REFUSALS, *RECORDS])
def test_only_a_primary_that_is_none_any_more_is_looked_for_over_new_connections(text: str) -> None:
    lost = text.startswith(("READONLY", "NOREPLICAS", "MASTERDOWN", "ERR max number of clients"))
    assert is_lost(answered(text)) == lost


def test_the_text_of_an_outage_has_no_full_stop_so_that_a_sentence_can_go_on_after_it() -> None:
    refused = RedisConnectionError("Error 111 connecting to redis:6379. Connection refused.")
    assert str(translate(refused, URL)).endswith("Connection refused")
