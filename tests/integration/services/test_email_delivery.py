"""The email service with its queue, its record of jobs and a real SMTP conversation: who gets how many copies."""

import contextlib
import dataclasses
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from email import message_from_bytes, policy
from pathlib import Path

import pytest
from dramatiq import Worker
from worker_process import WorkerProcess

from email_service.actors import service
from email_service.settings import EmailSettings
from jobkit.broker.memory import MemoryExchange
from jobkit.contracts.email import EmailSent, SendEmail
from jobkit.producer import Producer
from jobkit.settings import PlatformSettings
from jobkit.store.base import JobKey, JobState
from jobkit.store.memory import MemoryStore
from jobkit.store.redis import RedisStore

Answer = Callable[["Post", tuple[str, ...]], str | None]


class Post:
    """An SMTP server that asks a function what to answer to the final dot; None hangs up."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.heard = threading.Condition()
        self.taken: list[tuple[tuple[str, ...], bytes]] = []
        self.dots = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._open.append(connection)
                threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection, connection.makefile("rb") as lines:
            connection.settimeout(30)
            connection.sendall(b"220 hello\r\n")
            to: list[str] = []
            while line := lines.readline().decode():
                verb = line.split()[0].lower()
                if verb == "mail":
                    to = []
                elif verb == "rcpt":
                    to.append(line.partition("<")[2].partition(">")[0])
                elif verb == "data":
                    connection.sendall(b"354 go on\r\n")
                    body = b"".join(iter(lines.readline, b".\r\n"))
                    with self.heard:
                        self.dots += 1
                        self.heard.notify_all()
                    answer = self._answer(self, tuple(to))
                    if answer is None:
                        return
                    if answer.startswith("2"):
                        with self.heard:
                            self.taken.append((tuple(to), body))
                            self.heard.notify_all()
                    connection.sendall(answer.encode() + b"\r\n")
                    continue
                connection.sendall(b"250 OK\r\n")

    def wait_for(self, what: Callable[[], bool]) -> None:
        with self.heard:
            assert self.heard.wait_for(what, timeout=20)


@dataclasses.dataclass
class Room:
    producer: Producer
    exchange: MemoryExchange
    store: MemoryStore

    def send(self, *to: str, key: str | None = None) -> JobKey:
        variables = {"name": "Ada", "url": "https://example.org"}
        job = SendEmail(template="welcome", to=to or ("ada@example.org",), variables=variables)
        return JobKey("email", "send_email", self.producer.send(job, key=key).job_id)

    def wait_for(self, key: JobKey, state: JobState) -> None:
        until = time.monotonic() + 20
        pause = threading.Event()
        while (record := self.store.record(key)) is None or record.state is not state:
            assert time.monotonic() < until, record
            pause.wait(0.02)

    def result(self, key: JobKey) -> EmailSent:
        self.wait_for(key, JobState.DONE)
        record = self.store.record(key)
        assert record is not None
        return EmailSent.model_validate_json(record.result)


@contextlib.contextmanager
def working(post: Post, *, time_limit: float | None = None, **settings: float) -> Iterator[Room]:
    exchange, store = MemoryExchange(), MemoryStore()
    told = EmailSettings(smtp_url=f"smtp://127.0.0.1:{post.port}", **settings)  # type: ignore[arg-type]  # parsed
    declared = service.actors["send_email"]
    if time_limit is not None:
        service.actors["send_email"] = dataclasses.replace(declared, time_limit=timedelta(seconds=time_limit))
    worker = Worker(
        service.embed(exchange, store, PlatformSettings(environment="test"), told), worker_threads=2, worker_timeout=50
    )
    worker.start()
    try:
        yield Room(Producer.over(exchange), exchange, store)
    finally:
        worker.stop(timeout=3000)
        post.close()
        service.actors["send_email"] = declared


def taken(*_: object) -> str:
    return "250 queued"


def test_a_time_limit_that_strikes_at_the_final_dot_costs_no_second_copy() -> None:
    struck = threading.Event()

    def slowly(*_: object) -> str:
        struck.wait(1.5)  # the time limit is over long before the answer
        return "250 queued"

    post = Post(slowly)
    with working(post, time_limit=1.0) as room:
        result = room.result(room.send())
    assert result.accepted == ("ada@example.org",)
    assert post.dots == 1


@pytest.mark.parametrize("answer", ["251 forwarded", "200 fine"])
def test_any_positive_answer_ends_the_job(answer: str) -> None:
    post = Post(lambda *_: answer)
    with working(post) as room:
        assert room.result(room.send()).accepted == ("ada@example.org",)
    assert post.dots == 1


def test_an_answer_that_is_lost_rests_and_opens_no_breaker() -> None:
    post = Post(lambda post, _to: None if post.dots <= 6 else "250 queued")
    with working(post) as room:
        lost = [room.send(f"person{number}@example.org") for number in range(6)]
        post.wait_for(lambda: post.dots == 6)
        for key in lost:
            room.wait_for(key, JobState.WAITING)
        record = room.store.record(lost[0])
        assert record is not None
        assert "did not say whether" in record.waits_for
        assert room.result(room.send("eve@example.org")).accepted == ("eve@example.org",)
    assert post.dots == 7


def test_an_email_whose_outcome_stays_unknown_is_sent_twice_at_most_and_its_recipients_are_named() -> None:
    post = Post(lambda *_: None)
    with working(post, unknown_wait_seconds=1) as room:
        result = room.result(room.send("ada@example.org", "bob@example.org"))
    assert (result.accepted, result.unknown) == ((), ("ada@example.org", "bob@example.org"))
    assert post.dots == 2


def test_an_email_that_is_taken_at_the_second_time_is_known() -> None:
    post = Post(lambda post, _to: None if post.dots == 1 else "250 queued")
    with working(post, unknown_wait_seconds=1) as room:
        result = room.result(room.send())
    assert (result.accepted, result.unknown) == (("ada@example.org",), ())


def test_portions_reach_everybody_once_under_one_message_id() -> None:
    post = Post(taken)
    people = [f"person{number}@example.org" for number in range(7)]
    with working(post, portion=3) as room:
        room.send(*people)
        post.wait_for(lambda: len(post.taken) == 3)
    assert sorted(one for to, _ in post.taken for one in to) == people
    seen = [message_from_bytes(body, policy=policy.default) for _, body in post.taken]
    assert len({(message["Message-ID"], message["To"]) for message in seen}) == 1


def test_two_jobs_that_share_a_recipient_have_portions_of_their_own() -> None:
    post = Post(taken)
    with working(post, portion=1) as room:
        room.send("ada@example.org", "bob@example.org")
        room.send("cyn@example.org", "bob@example.org")
        post.wait_for(lambda: len(post.taken) == 4)
    assert sorted(one for to, _ in post.taken for one in to).count("bob@example.org") == 2


def test_a_key_that_is_used_again_after_its_record_has_expired_makes_another_message_id() -> None:
    post = Post(taken)
    with working(post) as room:
        first = room.result(room.send(key="digest/ada"))
    other = Post(taken)
    with working(other) as room:  # as after a day: nothing is known of the first
        threading.Event().wait(0.01)  # the moments of two sends differ by a millisecond at least
        second = room.result(room.send(key="digest/ada"))
    assert first.message_id != second.message_id


def test_a_worker_that_is_killed_at_the_final_dot_leaves_a_mark_that_the_next_one_heeds(
    tmp_path: Path, vhost_url: str, redis_url: str
) -> None:
    killed = threading.Event()

    def answer(post: Post, to: tuple[str, ...]) -> str:
        killed.wait(20)
        return "250 queued"

    post = Post(answer)
    told = {
        "JOBKIT_BROKER_URL": vhost_url,
        "JOBKIT_STORE_URL": redis_url,
        "JOBKIT_LEASE_SECONDS": "2",
        "JOBKIT_STORE_TIMEOUT_SECONDS": "0.3",
        "EMAIL_SMTP_URL": f"smtp://127.0.0.1:{post.port}",
    }
    job = SendEmail(
        template="welcome", to=("ada@example.org",), variables={"name": "Ada", "url": "https://example.org"}
    )
    store = RedisStore(redis_url)
    first, second = (WorkerProcess(tmp_path, told, module="email_service.main", name=name) for name in ("1", "2"))
    with contextlib.ExitStack() as ended:
        ended.callback(post.close)
        ended.callback(first.kill)
        ended.callback(second.kill)
        producer = ended.enter_context(Producer(vhost_url))
        key = JobKey("email", "send_email", producer.send(job).job_id)
        first.start(wait=False)
        post.wait_for(lambda: post.dots == 1)
        first.kill()
        killed.set()
        second.start(wait=False)
        until, pause = time.monotonic() + 30, threading.Event()
        while (record := store.record(key)) is None or record.state is not JobState.WAITING:
            assert time.monotonic() < until, record
            pause.wait(0.05)
    assert "did not say whether it has the e-mail" in record.waits_for
    assert post.dots == 1
