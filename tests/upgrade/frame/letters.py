"""Sending dead letters again: by a tool that changes nothing, or by the command of this version."""

import os
import subprocess
import sys

import pika
from versions import NOW

from jobkit.deadletters import has_been_dead


def move(url: str, service: str) -> int:
    """Publish all dead letters to the queue of the service as they are, and return how many."""
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        count: int = channel.queue_declare(f"{service}.dlq", passive=True).method.message_count
        for _ in range(count):
            method, properties, body = channel.basic_get(f"{service}.dlq")
            assert method is not None
            assert properties is not None
            assert body is not None
            assert has_been_dead(properties.headers)
            channel.basic_publish("", service, body, properties, mandatory=True)
            channel.basic_ack(method.delivery_tag)
    return count


def send_again(url: str, service: str) -> int:
    """Let ``jobkit dead-letters --send-again`` do it, whichever version the workers have."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("JOBKIT_")}
    done = subprocess.run(
        [sys.executable, "-m", "jobkit.cli", "dead-letters", service, "--send-again", "--limit", "1000"],
        env={**kept, **NOW.environment(), "JOBKIT_BROKER_URL": url},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stderr.removeprefix("sent again: ").split()[0])
