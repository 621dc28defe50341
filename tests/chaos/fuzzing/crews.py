"""The four services as they run in production, with good jobs for each of their queues."""

import csv
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from hostile import LEGAL, Kind, Target, envelope
from PIL import Image
from vitals import Vitals, descendants, look_at

from jobkit.contracts.email import SendEmail
from jobkit.contracts.etl import Column, RunPipeline
from jobkit.contracts.images import ProcessImage, Thumbnail
from jobkit.contracts.inference import PredictBatch, TrainModel
from jobkit.contracts.job import Job, lane_queue
from jobkit.deadletters import Reason
from jobkit.producer import Producer
from jobkit.store.base import JobKey, JobState
from jobkit.store.redis import RedisStore
from local_stack.process import Process

#: Seconds until a service's processes run; they import scikit-learn and Polars.
START = 120.0
#: Threads of each worker process.
THREADS = 4
PERMANENT, NOT_RETRIED = (Reason.PERMANENT.value,), (Reason.NOT_RETRIED.value,)

#: A worker for each, as in production: trainings apart from predictions.
COMMANDS: Mapping[str, tuple[str, ...]] = {
    "email": ("worker", "email"),
    "images": ("worker", "images"),
    "etl": ("worker", "etl"),
    "inference": ("worker", "inference", "--queue", "inference"),
    "training": ("worker", "inference", "--queue", "inference.training"),
}
SERVICES = ("email", "images", "etl", "inference")

EMAIL = SendEmail(template="welcome", to=("ada@example.com",), variables={"name": "Ada", "url": "https://example.org"})
IMAGE = ProcessImage(source="dot.png", operations=(Thumbnail(size=8),))
TABLE = RunPipeline(
    source="rows.csv", format="csv", table="rows", key=("id",), columns=(Column(name="id", type="integer"),)
)
TRAINING = TrainModel(model="tiny", dataset="tiny.npz", epochs=1, hidden_units=4)
PREDICTION = PredictBatch(model="tiny", inputs=[[0.0, 1.0]])


def _instead(job: Job, **changes: object) -> dict[str, object]:
    return {**job.model_dump(mode="json"), **changes}


def targets() -> list[Target]:
    """Every queue and lane of every service."""
    nothing_there = Kind("a source that is not there", PERMANENT, envelope("kwargs", _instead(IMAGE, source="no.png")))
    lone = Kind("a key with a surrogate", PERMANENT, envelope("kwargs", _instead(IMAGE, source="\ud800.png")))
    no_table = Kind("a source that is not there", PERMANENT, envelope("kwargs", _instead(TABLE, source="no.csv")))
    no_data = Kind("a data set that is not there", PERMANENT, envelope("kwargs", _instead(TRAINING, dataset="no.npz")))
    no_model = Kind("a model that is not there", PERMANENT, envelope("kwargs", _instead(PREDICTION, model="no")))
    wide = Kind("rows of another width", PERMANENT, envelope("kwargs", _instead(PREDICTION, inputs=[[0.0] * 4096])))
    surrogate = {"name": "\ud800", "url": "https://example.org"}
    text = Kind("variables with a surrogate", PERMANENT, envelope("kwargs", _instead(EMAIL, variables=surrogate)))
    template = Kind("no such template", PERMANENT, envelope("kwargs", _instead(EMAIL, template="no")))
    huge = Kind(
        "variables without end",
        LEGAL,
        envelope("kwargs", _instead(EMAIL, variables={**EMAIL.variables, "x": [10**4000] * 99})),
        rarity=50,
    )
    return [
        *(
            Target(lane_queue(SendEmail, lane), EMAIL, "process_image", (text, template, huge))
            for lane in SendEmail.lanes
        ),
        *(
            Target(lane_queue(ProcessImage, lane), IMAGE, "send_email", (nothing_there, lone))
            for lane in ProcessImage.lanes
        ),
        Target("etl", TABLE, "predict_batch", (no_table,)),
        Target("inference", PREDICTION, "run_pipeline", (no_model, wide)),
        Target("inference.training", TRAINING, "send_email", (no_data,)),
    ]


def furnish(folder: Path) -> None:
    """Put what the good jobs work on where the services look for it."""
    for name in SERVICES:
        (folder / name).mkdir()
    Image.new("RGB", (16, 16), "teal").save(folder / "images/dot.png")
    with (folder / "etl/rows.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["id"], ["1"], ["2"]])
    features = np.random.default_rng(7).normal(size=(40, 2))
    np.savez(folder / "inference/tiny.npz", features=features, labels=(features[:, 0] > 0).astype(int))


def environment(folder: Path, broker_url: str, store_url: str, smtp_url: str) -> dict[str, str]:
    """The variables of all workers."""
    ours = ("JOBKIT_", "EMAIL_", "IMAGES_", "ETL_", "INFERENCE_", "SENTRY_", "OTEL_")
    sizes = {
        f"{name.upper()}_{size}": n for name in SERVICES for size, n in (("PROCESSES", "1"), ("THREADS", str(THREADS)))
    }
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(ours)},
        **sizes,
        "JOBKIT_BROKER_URL": broker_url,
        "JOBKIT_STORE_URL": store_url,
        "JOBKIT_ROLLOUT_SECONDS": "0",  # what no actor takes is dead at once
        "EMAIL_SMTP_URL": smtp_url,
        "IMAGES_STORAGE_URL": str(folder / "images"),
        "ETL_STORAGE_URL": str(folder / "etl"),
        "ETL_DATABASE_URL": f"sqlite:///{folder / 'tables.db'}",
        "INFERENCE_STORAGE_URL": (folder / "inference").as_uri(),
        "PYTHONUNBUFFERED": "1",
    }


@dataclass(frozen=True)
class Crew:
    """One service's worker."""

    name: str
    process: Process
    log: Path

    @property
    def pids(self) -> list[int]:
        """The processes that watch and the one that works."""
        return [self.process.pid, *(pid for pid, _ in descendants(self.process.pid))]

    def look(self) -> Vitals:
        """The one that works: by far the largest, as the others import little."""
        return max(map(look_at, self.pids), key=lambda vitals: vitals.resident)


@contextmanager
def crews(folder: Path, variables: Mapping[str, str]) -> Iterator[list[Crew]]:
    """All workers, ready for jobs, for as long as the block lasts."""
    jobkit = str(Path(sys.executable).parent / "jobkit")
    started: list[Crew] = []
    try:
        for name, arguments in COMMANDS.items():
            log = folder / f"{name}.log"
            process = Process.spawn([jobkit, *arguments], log=log, environment=variables, folder=folder)
            started.append(Crew(name, process, log))
        deadline = time.monotonic() + START
        for crew in started:
            while "ready for action" not in crew.log.read_text(errors="replace"):
                if not crew.process.alive or time.monotonic() > deadline:
                    raise SystemExit(f"{crew.name} did not start:\n{crew.log.read_text(errors='replace')[-2000:]}")
                time.sleep(0.1)
        yield started
    finally:
        for crew in started:
            crew.process.kill()


def train(url: str, store_url: str) -> None:
    """Publish the model that the predictions ask."""
    store = RedisStore(store_url)
    with Producer(url) as producer:
        receipt = producer.send(TRAINING)
    deadline = time.monotonic() + START
    while True:
        record = store.record(JobKey.of(receipt.queue, receipt.actor, receipt.job_id))
        if record is not None and record.state is JobState.DONE:
            break
        if time.monotonic() > deadline:
            raise SystemExit(f"the training has not ended: {record}")
        time.sleep(0.1)
    store.close()
