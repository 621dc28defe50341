"""The smoke test of the containers: one job through each service, a kill and a stop. Run by ``make stack-test``."""

import io
import json
import os
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import psycopg
import pytest
from containers import Containers
from PIL import Image
from sklearn.datasets import load_digits  # type: ignore[import-untyped]  # ships no types

from jobkit.contracts.email import SendEmail
from jobkit.contracts.etl import Column, RunPipeline
from jobkit.contracts.images import Convert, ProcessImage, Resize, Thumbnail
from jobkit.contracts.inference import PredictBatch, TrainModel
from jobkit.producer import Producer
from jobkit.store.base import JobKey, JobRecord, JobState
from jobkit.store.redis import RedisStore
from local_stack.docker import engine_answers

pytestmark = [
    pytest.mark.timeout(900),  # the first build fetches some hundred megabytes
    pytest.mark.skipif(os.environ.get("STACK") != "1", reason="builds and runs all containers: make stack-test"),
]

WORKERS = ("email", "images", "etl", "inference", "training")


@pytest.fixture(scope="module")
def stack() -> Iterator[Containers]:
    assert engine_answers(), "no Docker engine with the compose plugin answers"
    with Containers.running() as containers:
        yield containers


@pytest.fixture(scope="module")
def producer(stack: Containers) -> Iterator[Producer]:
    url = stack.variable("email", "JOBKIT_BROKER_URL").replace("rabbitmq:5672", stack.address("rabbitmq", 5672))
    with Producer(url) as built:
        yield built


@pytest.fixture(scope="module")
def store(stack: Containers) -> RedisStore:
    return RedisStore(stack.variable("email", "JOBKIT_STORE_URL").replace("redis:6379", stack.address("redis", 6379)))


@pytest.fixture(scope="module")
def digits(stack: Containers) -> str:
    """The key of a data set in the inference service's storage."""
    data = load_digits()
    file = io.BytesIO()
    np.savez(file, features=data.data / 16, labels=data.target)
    stack.store("training", "datasets/digits.npz", file.getvalue())
    return "datasets/digits.npz"


def wait(condition: Callable[[], bool], what: str, limit: float = 60.0) -> None:
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {limit:.0f} s"
        time.sleep(0.1)


def done(store: RedisStore, service: str, actor: str, job_id: str, limit: float = 60.0) -> JobRecord:
    """The job's record, once the job has ended well."""
    key = JobKey(service, actor, job_id)

    def ended() -> bool:
        record = store.record(key)
        assert record is None or record.state is not JobState.DEAD, f"{actor} {job_id} died: {record.failure}"
        return record is not None and record.state is JobState.DONE

    wait(ended, f"the end of {actor} {job_id}", limit)
    record = store.record(key)
    assert record is not None
    return record


def result(store: RedisStore, service: str, actor: str, job_id: str, limit: float = 60.0) -> Any:
    return json.loads(done(store, service, actor, job_id, limit).result or b"null")


def caught(stack: Containers, recipient: str) -> list[dict[str, Any]]:
    """The e-mails to an address that the mail catcher holds."""
    with urllib.request.urlopen(f"http://{stack.address('mailpit', 8025)}/api/v1/messages?limit=500") as answer:
        messages: list[dict[str, Any]] = json.load(answer)["messages"]
    return [message for message in messages if recipient in [to["Address"] for to in message["To"]]]


def welcome(recipient: str) -> SendEmail:
    variables = {"name": "Ada", "product": "Example", "url": "https://example.com/start"}
    return SendEmail(template="welcome", to=(recipient,), variables=variables)


def test_an_email_reaches_the_mail_server(stack: Containers, producer: Producer, store: RedisStore) -> None:
    receipt = producer.send(welcome("ada@example.com"))
    sent = result(store, "email", "send_email", receipt.job_id)
    assert [message["MessageID"] for message in caught(stack, "ada@example.com")] == [sent["message_id"].strip("<>")]


def test_an_image_is_resized_and_stored(stack: Containers, producer: Producer, store: RedisStore) -> None:
    file = io.BytesIO()
    Image.linear_gradient("L").resize((640, 480)).save(file, "PNG")
    stack.store("images", "incoming/gradient.png", file.getvalue())
    operations = (Resize(width=320), Thumbnail(size=64), Convert(format="webp"))
    receipt = producer.send(ProcessImage(source="incoming/gradient.png", operations=operations))
    outputs = result(store, "images", "process_image", receipt.job_id)["outputs"]
    sizes = {output["kind"]: Image.open(io.BytesIO(stack.stored("images", output["key"]))).size for output in outputs}
    assert sizes == {"image": (320, 240), "thumbnail": (64, 48)}


def test_a_table_arrives_in_postgresql(stack: Containers, producer: Producer) -> None:
    stack.store("etl", "incoming/orders.csv", b"id,amount\n1,10.5\n2,not a number\n3,7\n")
    columns = (Column(name="id", type="integer"), Column(name="amount", type="number"))
    producer.send(RunPipeline(source="incoming/orders.csv", format="csv", table="orders", columns=columns, key=("id",)))
    url = stack.variable("etl", "ETL_DATABASE_URL").replace("postgres:5432", stack.address("postgres", 5432))

    def rows() -> list[tuple[int, float]]:
        with psycopg.connect(url) as connection:
            if connection.execute("SELECT to_regclass('orders')").fetchone() == (None,):
                return []
            return connection.execute("SELECT id, amount FROM orders ORDER BY id").fetchall()

    wait(lambda: bool(rows()), "the load of the table")
    assert rows() == [(1, 10.5), (3, 7.0)]


def test_what_one_container_trains_another_predicts_with(
    stack: Containers, producer: Producer, store: RedisStore, digits: str
) -> None:
    trained = producer.send(TrainModel(model="digits", dataset=digits, epochs=5))
    assert result(store, "inference", "train_model", trained.job_id)["accuracy"] > 0.9
    inputs = (load_digits().data[:20] / 16).tolist()
    predicted = producer.send(PredictBatch(model="digits", inputs=inputs))
    assert len(result(store, "inference", "predict_batch", predicted.job_id)["predictions"]) == 20


def test_a_killed_worker_is_replaced_inside_its_container_and_its_job_done(
    stack: Containers, producer: Producer, store: RedisStore, digits: str
) -> None:
    receipt = producer.send(TrainModel(model="long", dataset=digits, epochs=150, hidden_units=256))
    key = JobKey("inference", "train_model", receipt.job_id)
    wait(lambda: (record := store.record(key)) is not None and (record.percent or 0) > 5, "the training's progress")
    stack.kill_workers("training")
    record = done(store, "inference", "train_model", receipt.job_id, limit=180)
    assert record.crashes == 1
    assert stack.state("training")["RestartCount"] == 0
    wait(lambda: stack.state("training")["State"]["Health"]["Status"] == "healthy", "its successor's health")


def test_a_stop_in_the_middle_of_work_ends_in_time_with_status_0_and_loses_nothing(
    stack: Containers, producer: Producer, store: RedisStore
) -> None:
    receipts = list(producer.send_many((welcome("many@example.com") for _ in range(300)), receipts=True))
    wait(lambda: bool(caught(stack, "many@example.com")), "the first e-mail")
    began = time.monotonic()
    stack.compose("stop", *WORKERS, "scheduler")
    assert time.monotonic() - began < 30
    assert {name: stack.state(name)["State"]["ExitCode"] for name in (*WORKERS, "scheduler")} == dict.fromkeys(
        (*WORKERS, "scheduler"), 0
    )
    waiting = sum(store.record(JobKey("email", "send_email", receipt.job_id)) is None for receipt in receipts)
    assert waiting > 0, "the stop came too late to interrupt anything"
    stack.compose("start", "email")
    for receipt in receipts:
        done(store, "email", "send_email", receipt.job_id)
    ids = [message["MessageID"] for message in caught(stack, "many@example.com")]
    assert len(ids) == len(set(ids)) == len(receipts)


@pytest.mark.parametrize("service", ["email", "scheduler"])
def test_a_misconfigured_container_says_why_and_stays_down(stack: Containers, service: str) -> None:
    try:
        stack.compose("up", "--detach", "--no-deps", service, JOBKIT_LOG_LEVEL="LOUD")
        wait(lambda: stack.state(service)["State"]["Status"] == "exited", f"the end of {service}")
        # The engine decides in the moment of the end: a container that it restarts is `restarting`, and counted.
        state = stack.state(service)
        assert (state["State"]["ExitCode"], state["RestartCount"], state["State"]["Restarting"]) == (0, 0, False)
        assert b"JOBKIT_LOG_LEVEL: " in stack.compose("logs", "--no-color", "--tail", "5", service)
    finally:
        stack.compose("up", "--detach", "--no-deps", "--wait", service)


def test_a_container_whose_first_process_is_killed_ten_times_comes_back_each_time(
    stack: Containers, producer: Producer, store: RedisStore
) -> None:
    def running() -> bool:
        return bool(stack.state("email")["State"]["Status"] == "running")

    before = stack.state("email")["RestartCount"]
    for kill in range(1, 11):
        wait(running, "the restart", limit=90)  # the engine's pause doubles from 0.1 s to at most a minute
        stack.kill_first_process("email")
        wait(lambda kill=kill: stack.state("email")["RestartCount"] == before + kill, "the restart", limit=90)  # type: ignore[misc]  # mypy cannot infer a lambda with a default
    receipt = producer.send(welcome("back@example.com"))
    done(store, "email", "send_email", receipt.job_id, limit=90)
