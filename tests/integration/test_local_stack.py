"""The private nodes keep their promises: they answer, keep their data, end, and say what is wrong."""

import os
import signal
import smtplib
import subprocess
import sys
import time
from collections.abc import Callable
from email.message import EmailMessage
from pathlib import Path

import psycopg
import pytest
import redis
from process_table import command, mentions, pids

from local_stack.errors import NodeFailed, PortTaken
from local_stack.mailcatcher import MailCatcher
from local_stack.node import Node
from local_stack.ports import LOOPBACK
from local_stack.postgres import Postgres
from local_stack.rabbitmq import RabbitMQ
from local_stack.redis import Redis


def processes_in(folder: Path) -> list[str]:
    """Return the command lines of all processes that work in or name a folder."""
    return [command(pid) for pid in pids() if pid != os.getpid() and mentions(pid, folder)]


def wait_until_gone(folder: Path) -> list[str]:
    deadline = time.monotonic() + 10
    while (left := processes_in(folder)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


@pytest.mark.parametrize("kind", [Redis, Postgres, MailCatcher])
def test_a_killed_node_leaves_no_process_and_starts_again(kind: Callable[[Path], Node], tmp_path: Path) -> None:
    with kind(tmp_path / "node") as node:
        url = node.url
        assert processes_in(tmp_path)
        node.kill()
        assert processes_in(tmp_path) == []
        assert not node.answers()
        node.start()
        assert node.answers()
        assert node.url == url
    assert processes_in(tmp_path) == []


def test_a_killed_rabbitmq_leaves_no_process_and_keeps_its_virtual_hosts(tmp_path: Path) -> None:
    with RabbitMQ(tmp_path / "node") as node:
        node.create_vhost("kept")
        node.kill()
        assert processes_in(tmp_path) == []
        node.start()
        assert "kept" in node.ctl("list_vhosts").split()
        with pytest.raises(NodeFailed, match="no_such_command"):
            node.ctl("no_such_command")
        node.kill()


def test_redis_keeps_its_keys_across_kill_and_restart(tmp_path: Path) -> None:
    with Redis(tmp_path / "node") as node, redis.Redis.from_url(node.url) as client:
        client.set("a", "1")
        node.kill()
        node.start()
        assert client.get("a") == b"1"
        node.restart()
        assert client.get("a") == b"1"
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}


def test_postgres_keeps_its_rows_across_kill_and_restart(tmp_path: Path) -> None:
    with Postgres(tmp_path / "node") as node:
        with psycopg.connect(node.url) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 7 AS number")
        node.kill()
        node.start()
        node.restart()
        with psycopg.connect(node.url) as connection:
            assert connection.execute("SELECT number FROM kept").fetchall() == [(7,)]


def test_postgres_refuses_a_wrong_password(postgres_url: str) -> None:
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(postgres_url.replace(":postgres@", ":wrong@"))


def test_the_mail_catcher_keeps_message_and_envelope(mail_catcher: MailCatcher) -> None:
    message = EmailMessage()
    message["Subject"] = "Grüße"
    message.set_content("Ein Text.\n")
    with smtplib.SMTP(LOOPBACK, mail_catcher.ports["SMTP"], timeout=5) as client:
        client.send_message(message, "from@example.com", ["a@example.org", "hidden@example.org"])
    (kept,) = mail_catcher.messages()
    assert kept["Subject"] == "Grüße"
    assert kept["Return-Path"] == "<from@example.com>"
    assert kept.get_all("Delivered-To") == ["a@example.org", "hidden@example.org"]
    assert kept.get_content() == "Ein Text.\r\n"


def test_a_port_in_use_is_named(redis_server: Redis, tmp_path: Path) -> None:
    taken = redis_server.ports["clients"]
    with pytest.raises(PortTaken, match=rf"RabbitMQ \(AMQP\) cannot listen on 127\.0\.0\.1:{taken} because"):
        RabbitMQ(tmp_path, port=taken).start()


def test_a_node_that_ends_while_it_starts_shows_its_log(tmp_path: Path) -> None:
    with pytest.raises(NodeFailed, match=r"(?s)RabbitMQ ended while it started.*no_such_setting"):
        RabbitMQ(tmp_path, config=["no_such_setting = 1"]).start()


def test_a_virtual_host_is_empty_and_usable(vhost_url: str, rabbitmq: RabbitMQ) -> None:
    name = vhost_url.rpartition("/")[2]
    assert rabbitmq.call("GET", f"/api/queues/{name}") == []
    rabbitmq.call("PUT", f"/api/queues/{name}/q", {"durable": True})


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel ends a node with its owner on Linux alone")
def test_a_killed_owner_leaves_no_node(tmp_path: Path) -> None:
    program = (
        "import pathlib, sys, time\n"
        "from local_stack.redis import Redis\n"
        "Redis(pathlib.Path(sys.argv[1])).start()\n"
        "print('up', flush=True)\n"
        "time.sleep(60)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "up\n"
        assert len(processes_in(tmp_path)) == 2  # the owner and its node
        owner.send_signal(signal.SIGKILL)
    assert wait_until_gone(tmp_path) == []


def test_up_twice_and_down_twice_end_with_nothing_running(tmp_path: Path) -> None:
    def local_stack(command: str) -> subprocess.CompletedProcess[str]:
        arguments = [command, "--folder", str(tmp_path), "--compose", str(tmp_path / "none")]
        return subprocess.run(
            [sys.executable, "-m", "local_stack", *arguments], capture_output=True, text=True, timeout=100, check=False
        )

    try:
        first, second = local_stack("up"), local_stack("up")
        assert (first.returncode, first.stderr) == (0, "")
        assert second.stdout == first.stdout
        variables = dict(line.split("=", 1) for line in (tmp_path / "environment").read_text().splitlines())
        assert {"JOBKIT_BROKER_URL", "JOBKIT_STORE_URL", "EMAIL_SMTP_URL", "LOCAL_POSTGRES_URL"} <= variables.keys()
        with redis.Redis.from_url(variables["JOBKIT_STORE_URL"]) as client:
            assert client.ping()
        assert local_stack("status").returncode == 0
    finally:
        down = local_stack("down")
    assert (down.returncode, down.stderr) == (0, "")
    assert local_stack("down").returncode == 0
    assert local_stack("status").returncode == 1
    assert processes_in(tmp_path) == []
