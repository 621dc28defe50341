"""E-mails of the email service in a second, over connections that are used again, and over one for each e-mail."""

import sys
import time
from pathlib import Path

from rig import Rig
from room import limit, running

from jobkit.contracts.email import SendEmail
from jobkit.producer import Producer
from local_stack.mailcatcher import MailCatcher

PER_CONNECTION = (50, 1)
_LOOK = 0.05


def per_second(rig: Rig, name: str, count: int, per_connection: int) -> float:
    """Let the service work off a backlog of e-mails; from the first that has arrived to the last."""
    folder = rig.folder / name
    folder.mkdir()
    with rig.virtual_host(name) as url, MailCatcher(folder / "mailcatcher") as catcher:
        told = {"EMAIL_SMTP_URL": catcher.url, "EMAIL_MAILS_PER_CONNECTION": str(per_connection)}
        people = (f"person{number}@example.org" for number in range(count))
        variables = {"name": "Ada", "url": "https://example.org"}
        with Producer(url) as producer:
            producer.send_many(SendEmail(template="welcome", to=(who,), variables=variables) for who in people)
        command = [sys.executable, "-m", "jobkit.cli", "worker", "email"]
        with running(command, {**rig.environment(url), **told}, folder / "worker.log"):
            first, last = _arrivals(catcher.folder, count)
    return (count - 1) / (last - first) * 1e9


def _arrivals(folder: Path, count: int) -> tuple[int, int]:
    """Wait for all; when the first and the last arrived, in nanoseconds."""
    deadline = time.monotonic() + limit(count)
    while len(names := sorted(file.name for file in folder.glob("*.eml"))) < count:
        if time.monotonic() > deadline:
            raise SystemExit(f"the email service sent {len(names)} of {count} within {limit(count):.0f} s")
        time.sleep(_LOOK)
    return int(names[0].partition("-")[0]), int(names[-1].partition("-")[0])
