"""Who is refused at the start ends with one line; who is refused later waits, says so once, and recovers."""

import json
import shlex
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest
import redis
from documentation import ROOT, blocks
from ledger import Ledger
from probe_service import Probe
from queues import wait_until_empty
from worker_process import WorkerProcess

from jobkit.middleware.sign_of_life import is_healthy
from jobkit.producer import Producer
from local_stack.rabbitmq import RabbitMQ
from local_stack.redis import Redis as RedisNode

MISCONFIGURED = 78

#: A worker that asks its store and its health more often than every 5 s.
QUICK = {
    "JOBKIT_LEASE_SECONDS": "6",
    "JOBKIT_STORE_TIMEOUT_SECONDS": "1",
    "JOBKIT_HEALTH_STALL_SECONDS": "4",
    "JOBKIT_REFUSAL_LIMIT_SECONDS": "1",
}

EVICTS = "maxmemory-policy allkeys-lru, so it forgets records"


def documented_rights() -> str:
    """The rights that docs/how-to/redis.md gives to a user, without its name and password."""
    page = ROOT / "docs/how-to/redis.md"
    (command,) = (block.text for block in blocks(page, "sh") if "acl setuser" in block.text)
    words = shlex.split(command.replace("\\\n", " "))
    assert words[:3] == ["redis-cli", "acl", "setuser"]
    return " ".join(words[6:])


LEAST = documented_rights()


class Login:
    """A user of Redis whose rights a test takes and gives back."""

    def __init__(self, url: str) -> None:
        self.name = f"user-{uuid.uuid4().hex[:8]}"
        self._admin = redis.Redis.from_url(url)
        parts = urlsplit(url)
        self.url = parts._replace(netloc=f"{self.name}:s3cret@{parts.hostname}:{parts.port}").geturl()

    def may(self, *rules: str) -> None:
        words = [word for rule in rules for word in rule.split()]
        self._ask("ACL", "SETUSER", self.name, "reset", "on", ">s3cret", *words)

    def gone(self) -> None:
        self._ask("ACL", "DELUSER", self.name)

    def _ask(self, *words: str) -> None:
        self._admin.execute_command(*words)  # type: ignore[no-untyped-call]  # redis-py types it not


@pytest.fixture
def login(redis_url: str) -> Iterator[Login]:
    login = Login(redis_url)
    yield login
    login.gone()


@pytest.fixture
def environment(vhost_url: str, redis_url: str) -> dict[str, str]:
    return {"JOBKIT_BROKER_URL": vhost_url, "JOBKIT_STORE_URL": redis_url}


def events(worker: WorkerProcess, level: str) -> list[str]:
    lines = [line for line in worker.output().splitlines() if line.startswith("{")]
    return [event["event"] for event in map(json.loads, lines) if event["level"] == level]


def refused(folder: Path, environment: dict[str, str]) -> str:
    """The one line of a worker that gives up at its start."""
    worker = WorkerProcess(folder, environment)
    try:
        worker.start(wait=False)
        assert worker.wait(30) == MISCONFIGURED, worker.output()
    finally:
        worker.kill()
    (line,) = events(worker, "critical")
    assert "s3cret" not in worker.output()
    assert "Traceback" not in worker.output()
    return line


# ---- at the start


@pytest.mark.parametrize(
    "rules",
    [
        "+@all -@scripting ~*",
        "+@all ~cache:*",
        "+@all ~jobkit:job:*",  # neither breakers nor schedules
        "+@all -hset ~*",
        "+@all -pexpire ~*",
        "+@all -hsetnx ~*",
        "+@all -sadd ~*",  # breakers
        "+@all -hincrby ~*",  # announcements
        "+@read +@scripting +client|setname ~*",
        "-@all ~*",
    ],
)
def test_a_worker_whose_redis_user_lacks_a_right_ends_at_its_start(
    tmp_path: Path, environment: dict[str, str], login: Login, rules: str
) -> None:
    login.may(rules)
    line = refused(tmp_path, {**environment, "JOBKIT_STORE_URL": login.url})
    assert "(JOBKIT_STORE_URL) does not permit what job records need" in line


def test_a_worker_with_a_wrong_redis_password_ends_at_its_start(
    tmp_path: Path, environment: dict[str, str], login: Login
) -> None:
    login.may(LEAST)
    line = refused(tmp_path, {**environment, "JOBKIT_STORE_URL": login.url.replace("s3cret", "wr0ng")})
    assert "refused the user or password in JOBKIT_STORE_URL" in line
    assert "wr0ng" not in line


def test_a_database_that_redis_does_not_have_ends_the_worker(tmp_path: Path, environment: dict[str, str]) -> None:
    url = environment["JOBKIT_STORE_URL"].removesuffix("/0") + "/9999"
    assert "JOBKIT_STORE_URL" in refused(tmp_path, {**environment, "JOBKIT_STORE_URL": url})


def test_what_is_no_redis_ends_the_worker(tmp_path: Path, environment: dict[str, str], rabbitmq: RabbitMQ) -> None:
    url = f"redis://127.0.0.1:{rabbitmq.ports['management']}/0"
    assert "is no Redis" in refused(tmp_path, {**environment, "JOBKIT_STORE_URL": url})


def test_the_rights_that_the_documentation_names_are_enough(
    tmp_path: Path, environment: dict[str, str], login: Login, ledger: Ledger
) -> None:
    login.may(LEAST)
    url = environment["JOBKIT_BROKER_URL"]
    with WorkerProcess(tmp_path, {**environment, "JOBKIT_STORE_URL": login.url}) as worker, Producer(url) as producer:
        producer.send(Probe(name="modest"))
        ledger.wait_for("end", "modest")
        assert events(worker, "error") == []


@contextmanager
def cluster_node(folder: Path) -> Iterator[RedisNode]:
    """A whole cluster of one shard."""
    node = RedisNode(folder, options={"cluster-enabled": "yes"})
    try:
        node.start()
        with redis.Redis.from_url(node.url) as admin:
            admin.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        yield node
    finally:
        node.kill()


@pytest.mark.parametrize("rules", ["+@all ~*", "+@all -info ~*"], ids=["it says so", "it does not say"])
def test_a_cluster_of_one_shard_ends_the_worker(tmp_path: Path, environment: dict[str, str], rules: str) -> None:
    with cluster_node(tmp_path / "cluster") as node:
        login = Login(node.url)
        login.may(rules)
        with redis.Redis.from_url(node.url) as admin:
            deadline = time.monotonic() + 10
            while admin.execute_command("CLUSTER INFO").get("cluster_state") != "ok":
                assert time.monotonic() < deadline, "the cluster did not come up"
                time.sleep(0.05)
        assert "without cluster mode" in refused(tmp_path, {**environment, "JOBKIT_STORE_URL": login.url})


def test_a_store_that_may_forget_records_is_warned_of(
    tmp_path: Path, environment: dict[str, str], redis_url: str
) -> None:
    with redis.Redis.from_url(redis_url) as admin:
        admin.config_set("maxmemory-policy", "allkeys-lru")
        try:
            with WorkerProcess(tmp_path, environment) as worker:
                worker.ledger.wait(lambda _: any(EVICTS in line for line in events(worker, "warning")))
        finally:
            admin.config_set("maxmemory-policy", "noeviction")


def test_a_broker_user_that_may_not_read_ends_the_worker(
    tmp_path: Path, environment: dict[str, str], rabbitmq: RabbitMQ
) -> None:
    name, vhost = _broker_user(rabbitmq, environment)
    rabbitmq.call("PUT", f"/api/permissions/{vhost}/{name}", {"configure": ".*", "write": ".*", "read": "^$"})
    url = environment["JOBKIT_BROKER_URL"].replace("guest:guest", f"{name}:s3cret")
    assert "ACCESS_REFUSED" in refused(tmp_path, {**environment, "JOBKIT_BROKER_URL": url})


@pytest.mark.parametrize(
    ("write", "exchange"), [("^$", "probe.jobs"), ("^probe", "jobkit.delay.00")], ids=["no jobs", "no delayed jobs"]
)
def test_a_broker_user_that_may_not_write_ends_the_worker(
    tmp_path: Path, environment: dict[str, str], rabbitmq: RabbitMQ, write: str, exchange: str
) -> None:
    name, vhost = _broker_user(rabbitmq, environment)
    rabbitmq.call("PUT", f"/api/permissions/{vhost}/{name}", {"configure": ".*", "write": write, "read": ".*"})
    url = environment["JOBKIT_BROKER_URL"].replace("guest:guest", f"{name}:s3cret")
    line = refused(tmp_path, {**environment, "JOBKIT_BROKER_URL": url})
    assert "ACCESS_REFUSED" in line
    assert exchange in line


def _broker_user(rabbitmq: RabbitMQ, environment: dict[str, str]) -> tuple[str, str]:
    name, vhost = f"user-{uuid.uuid4().hex[:8]}", environment["JOBKIT_BROKER_URL"].rsplit("/", 1)[1]
    rabbitmq.call("PUT", f"/api/users/{name}", {"password": "s3cret", "tags": ""})
    everything = {"configure": ".*", "write": ".*", "read": ".*"}
    rabbitmq.call("PUT", f"/api/permissions/{quote(vhost, safe='')}/{name}", everything)
    return name, vhost


# ---- later


@pytest.mark.parametrize("withdrawn", ["the password", "a command", "a key"])
def test_a_right_that_is_withdrawn_from_a_running_worker_is_said_once_and_its_end_is_noticed(
    tmp_path: Path, environment: dict[str, str], login: Login, ledger: Ledger, withdrawn: str
) -> None:
    login.may(LEAST)
    health = tmp_path / "health"
    settings = {
        **environment,
        "JOBKIT_STORE_URL": login.url,
        "JOBKIT_HEALTH_FOLDER": str(health),
        **QUICK,
    }
    with WorkerProcess(tmp_path, settings) as worker, Producer(environment["JOBKIT_BROKER_URL"]) as producer:
        producer.send(Probe(name="before"))
        ledger.wait_for("end", "before")
        if withdrawn == "the password":
            login.gone()
        else:
            login.may(LEAST, "-hset" if withdrawn == "a command" else "resetkeys ~cache:*")
        # Nothing is sent: an idle worker notices it, too.
        ledger.wait(lambda _: any("until that is mended" in line for line in events(worker, "error")), limit=30)
        ledger.wait(lambda _: not is_healthy(health), limit=30, what="an unhealthy worker")
        producer.send(Probe(name="waits", then="fail", until_attempt=2))
        wait_until_empty(environment["JOBKIT_BROKER_URL"], "probe")
        login.may(LEAST)
        ledger.wait_for("end", "waits", limit=30)
        ledger.wait(lambda _: is_healthy(health), limit=30, what="a healthy worker")
        said = [*events(worker, "error"), *events(worker, "warning")]
        assert len([line for line in said if "JOBKIT_STORE_URL" in line]) == 1, said
        assert worker.alive
    assert ledger.counts("start") == {"before": 1, "waits": 2}  # no attempt was used up by waiting


def test_a_broker_login_that_is_withdrawn_is_said_once_and_its_end_is_noticed(
    tmp_path: Path, environment: dict[str, str], rabbitmq: RabbitMQ, ledger: Ledger
) -> None:
    name, _ = _broker_user(rabbitmq, environment)
    health = tmp_path / "health"
    settings = {
        **environment,
        "JOBKIT_BROKER_URL": environment["JOBKIT_BROKER_URL"].replace("guest:guest", f"{name}:s3cret"),
        "JOBKIT_HEALTH_FOLDER": str(health),
        **QUICK,
    }
    with WorkerProcess(tmp_path, settings) as worker, Producer(environment["JOBKIT_BROKER_URL"]) as producer:
        # The consumer of each lane has to be at work: a login that is refused at the start ends the worker.
        for lane in Probe.lanes:
            producer.send(Probe(name=lane), lane=lane)
        ledger.wait_for("end", *Probe.lanes)
        rabbitmq.call("DELETE", f"/api/users/{name}")  # and with it, its connections
        ledger.wait(lambda _: any("until that is mended" in line for line in events(worker, "error")), limit=30)
        ledger.wait(lambda _: not is_healthy(health), limit=30, what="an unhealthy worker")
        producer.send(Probe(name="waits"))
        said = [line for line in events(worker, "error") if "until that is mended" in line]
        assert len(said) == len(set(said))
        rabbitmq.call("PUT", f"/api/users/{name}", {"password": "s3cret", "tags": ""})
        vhost = environment["JOBKIT_BROKER_URL"].rsplit("/", 1)[1]
        rabbitmq.call("PUT", f"/api/permissions/{vhost}/{name}", {"configure": ".*", "write": ".*", "read": ".*"})
        ledger.wait_for("end", "waits", limit=30)
        ledger.wait(lambda _: is_healthy(health), limit=30, what="a healthy worker")
    assert ledger.counts("start") == {**dict.fromkeys(Probe.lanes, 1), "waits": 1}
