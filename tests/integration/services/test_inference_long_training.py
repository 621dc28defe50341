"""Trainings that take hours: over slices, outages, restarts and workers that stop."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import dramatiq
import pytest
from inference_lab import blobs, filled, put, train

from inference_service import handlers
from inference_service.actors import service
from inference_service.adapters.classifier import Classifier
from inference_service.adapters.datasets import Examples
from inference_service.adapters.scikit import ScikitClassifier, ScikitLearn
from inference_service.adapters.storage import ObjectStorage, open_storage
from inference_service.errors import EpochTooLong, StorageUnavailable
from inference_service.handlers import TrainedModel
from inference_service.settings import InferenceSettings
from jobkit.broker.memory import MemoryExchange
from jobkit.contracts.inference import PredictBatch, PromoteModel, TrainModel
from jobkit.contracts.job import Job
from jobkit.errors import Snooze
from jobkit.producer import Producer
from jobkit.retry import fixed
from jobkit.settings import PlatformSettings
from jobkit.store.base import JobKey, JobRecord, JobState
from jobkit.store.memory import MemoryStore

X, Y = blobs(200)


class Killed(BaseException):
    """Ends a run where a worker's death would."""


class ScaledTime:
    """A clock on which an epoch takes minutes, and a learner that moves it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: Callable[[int], float]) -> None:
        self.now = 0.0
        self.epochs = 0
        self._seconds = seconds
        monkeypatch.setattr(handlers, "monotonic", lambda: self.now)
        learn = ScikitClassifier._learn

        def slow(classifier: ScikitClassifier, scaled: Any, places: Any) -> None:
            self.now += seconds(self.epochs) / 4
            learn(classifier, scaled, places)

        monkeypatch.setattr(ScikitClassifier, "_learn", slow)
        monkeypatch.setattr(ScikitClassifier, "_rows_at_a_time", lambda _: 40)  # four parts of the 160 training rows


def test_a_training_of_two_hours_ends_with_the_model_of_one_that_was_never_interrupted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """48 epochs of 150 s on average, a limit of 600 s, 12 outages and 8 machines that go away."""
    undisturbed = train(filled(X, Y), epochs=48, batch_size=40).digest
    clock = ScaledTime(monkeypatch, lambda epoch: 80 + 140 * (epoch % 10 in (3, 7, 8, 9, 0)))
    storage = filled(X, Y)
    deliveries = failures = crashes = most_failures = 0
    outages = {3, 6, 9, 13, 17, 20, 24, 28, 32, 36, 40, 44}
    deaths = {2, 8, 15, 21, 27, 33, 39, 45}
    put_object = ObjectStorage.put

    def put_or_fail(self: ObjectStorage, key: str, data: bytes) -> None:
        if key.startswith("checkpoints") and outages & {clock.epochs + 1}:
            outages.remove(clock.epochs + 1)
            raise StorageUnavailable("no storage")
        put_object(self, key, data)

    def saved() -> None:
        nonlocal failures
        clock.epochs += 1
        failures = 0

    def progress(percent: float, step: str = "", note: str = "") -> None:
        if clock.epochs in deaths:
            deaths.remove(clock.epochs)
            raise Killed

    monkeypatch.setattr(ObjectStorage, "put", put_or_fail)
    trained: TrainedModel | None = None
    while trained is None:
        deliveries, began = deliveries + 1, clock.now
        try:
            trained = train(
                storage,
                epochs=48,
                batch_size=40,
                time_slice=480,
                time_limit=600,
                saved=saved,
                progress=progress,
            )
        except Snooze:
            pass
        except StorageUnavailable:
            failures += 1
        except Killed:
            crashes += 1
        assert clock.now - began < 600, "a delivery never meets its limit"
        most_failures = max(most_failures, failures)
    assert clock.now >= 2 * 3600
    assert (outages, deaths, crashes) == (set(), set(), 8)
    assert most_failures == 1, "counted from the last checkpoint on"
    assert deliveries > 20
    assert trained.digest == undisturbed


def test_an_epoch_that_is_longer_than_the_limit_is_refused_while_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    ScaledTime(monkeypatch, lambda _: 800)
    with pytest.raises(EpochTooLong, match=r"an epoch takes about 800 s .* train on fewer than 160 rows"):
        train(filled(X, Y), batch_size=40, time_slice=480, time_limit=600)


def test_a_training_hands_itself_back_at_the_next_batch_when_its_worker_stops() -> None:
    storage = filled(X, Y)
    parts: list[int] = []

    class Watched(ScikitLearn):
        def start(self, job: TrainModel, examples: Examples, labels: Any) -> Classifier:
            classifier = super().start(job, examples, labels)
            assert isinstance(classifier, ScikitClassifier)
            learn = classifier._learn
            classifier._rows_at_a_time = lambda: 32  # type: ignore[method-assign]  # five parts
            classifier._learn = lambda *rows: (parts.append(1), learn(*rows))[1]  # type: ignore[method-assign, func-returns-value]
            return classifier

    with pytest.raises(Snooze, match="the worker stops") as caught:
        train(storage, epochs=4, learner=Watched(), stopping=lambda: len(parts) == 7)
    assert caught.value.after == timedelta()
    assert len(parts) == 7, "two batches into the second epoch"
    resumed = train(storage, epochs=4)
    assert resumed.resumed_from == 1
    assert resumed.digest == train(filled(X, Y), epochs=4).digest


class Host:
    """The whole service in this process, with slices of a second."""

    def __init__(self, folder: Path) -> None:
        self.exchange, self.store = MemoryExchange(), MemoryStore()
        settings = InferenceSettings(storage_url=folder.as_uri(), training_slice_seconds=1)
        broker = service.embed(self.exchange, self.store, PlatformSettings(), settings)
        self.worker = dramatiq.Worker(broker, worker_threads=1, worker_timeout=10)
        self.worker.start()

    def run(self, job: Job, job_id: str) -> JobRecord:
        """Send a job, and return its record once it is done or dead."""
        Producer.over(self.exchange).send(job, job_id=job_id)
        deadline = time.monotonic() + 60
        while True:
            record = self.store.record(JobKey.of(job.queue, job.actor, job_id))
            if record and record.state in (JobState.DONE, JobState.DEAD):
                return record
            assert time.monotonic() < deadline, record
            time.sleep(0.02)

    def result(self, job: Job, job_id: str) -> Any:
        record = self.run(job, job_id)
        assert record.state is JobState.DONE, self.exchange.dead_letters("inference")
        return json.loads(record.result)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    declared = service.actors["train_model"]
    impatient = replace(declared, retry=fixed(0.05, attempts=2, jitter=0))
    monkeypatch.setitem(service.actors, "train_model", impatient)
    put(open_storage(tmp_path.as_uri()), "d.npz", X, Y)
    host = Host(tmp_path)
    yield host
    host.worker.stop()


def test_more_outages_than_attempts_do_not_end_a_training_that_progresses(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five epochs of half a second in slices of one, and each is saved at the second try only."""
    put_object, learn = ObjectStorage.put, ScikitClassifier._learn
    failed: set[str] = set()

    def put_at_the_second_try(self: ObjectStorage, key: str, data: bytes) -> None:
        epoch = key.rpartition("/")[2][:6]
        if key.startswith("checkpoints") and epoch not in failed:
            failed.add(epoch)
            raise StorageUnavailable("no storage")
        put_object(self, key, data)

    def slow(classifier: ScikitClassifier, scaled: Any, places: Any) -> None:
        time.sleep(0.5)
        learn(classifier, scaled, places)

    monkeypatch.setattr(ObjectStorage, "put", put_at_the_second_try)
    monkeypatch.setattr(ScikitClassifier, "_learn", slow)
    assert host.result(TrainModel(model="m", dataset="d.npz", epochs=5), "long")["resumed_from"] > 0
    assert len(failed) == 5


def test_a_candidate_is_promoted_and_answers(host: Host) -> None:
    job = TrainModel(model="m", dataset="d.npz", epochs=2, publish="candidate")
    digest = host.result(job, "training")["digest"]
    batch = PredictBatch(model="m", inputs=X[:3].tolist())
    assert host.run(batch, "too early").state is JobState.DEAD
    assert host.result(PromoteModel(model="m", digest=digest), "promotion")["promoted"] is True
    answer = host.result(batch, "in time")
    assert answer["digest"] == digest
    assert [one["label"] for one in answer["predictions"]] == Y[:3].tolist()
