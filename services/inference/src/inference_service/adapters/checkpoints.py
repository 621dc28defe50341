"""Checkpoints: where a training that was killed goes on."""

import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256

from inference_service.adapters.storage import Storage, Stored
from inference_service.errors import DatasetChanged

_log = logging.getLogger(__name__)
_NAME = re.compile(r"(?P<epoch>\d{6})-(?P<digest>[0-9a-f]{64})\.skops")
_ROOT = "checkpoints"


@dataclass(frozen=True)
class Checkpoint:
    """A classifier as it was after an epoch."""

    epoch: int
    data: bytes


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one training: ``checkpoints/<job>/<inputs>/<start>-<data>/<epoch>-<digest>.skops``.

    The folder is derived from the job's id and from everything that decides the weights, so a run finds what an earlier
    run of the same job left, and never what other data, parameters or library versions made. The file's name holds its
    digest, so that damage is noticed before a byte is interpreted.

    Attributes:
        job_folder: Of all trainings of the job, of whatever inputs.
        run_folder: Of one training.
        folder: Of its epochs with the data as they are.
        kept: How many of the last epochs stay.
    """

    storage: Storage
    job_folder: str
    run_folder: str
    folder: str
    kept: int

    @classmethod
    def of(
        cls,
        storage: Storage,
        job_id: str,
        inputs: Mapping[str, object],
        *,
        kept: int,
        data: str = "",
        restart: bool = False,
    ) -> "Checkpoints":
        """The checkpoints of the job, for exactly these inputs (JSON-able).

        Args:
            storage: Where they are.
            job_id: Whose they are.
            inputs: What decides the weights beside the data.
            kept: How many of the last epochs stay.
            data: The digest of the data set.
            restart: Begin again with other data than those of the checkpoints there are, once.

        Raises:
            DatasetChanged: The checkpoints there are were made with other data. They are deleted, so that the job can
                be retried with the new data.
        """
        # Ids are hashed because a key given by a producer may hold anything, slashes too.
        job = f"{_ROOT}/{sha256(job_id.encode()).hexdigest()[:32]}"
        run = f"{job}/{sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:32]}"
        found = storage.keys(run) if data else []
        starts = sorted({key.removeprefix(f"{run}/").partition("/")[0] for key in found})
        if not starts or starts[-1].endswith(f"-{data[:32]}"):
            name = starts[-1] if starts else f"0-{data[:32]}"
        elif restart and starts[-1].startswith("0-"):
            name = f"1-{data[:32]}"
            _log.warning("the data set has changed: the training begins again")
        else:
            for key in found:
                storage.delete(key)
            again = " once more" if starts[-1].startswith("1-") else ""
            raise DatasetChanged(
                f"the data set has changed{again} since the training began, after epoch {_last_epoch(found)}. Retry "
                'the job to train on the new one from the start, send it with on_changed_data="restart", or give each '
                "version of the data a file of its own"
            )
        return cls(storage, job, run, f"{run}/{name}" if data else run, kept)

    def save(self, checkpoint: Checkpoint) -> None:
        """Store a checkpoint, then let go of those before the last ``kept``, and of those of other data."""
        digest = sha256(checkpoint.data).hexdigest()
        self.storage.put(f"{self.folder}/{checkpoint.epoch:06d}-{digest}.skops", checkpoint.data)
        for key, epoch, _ in _named(self.storage.keys(self.run_folder)):
            if epoch <= checkpoint.epoch - self.kept or not key.startswith(f"{self.folder}/"):
                self.storage.delete(key)

    def newest_first(self) -> Iterator[Checkpoint]:
        """The checkpoints that are whole, the last epoch first; a damaged one is logged and skipped."""
        for key, epoch, digest in reversed(self._stored()):
            data = self.storage.get(key)
            if data is None:
                continue
            if sha256(data).hexdigest() != digest:
                _log.warning("checkpoint %s is damaged: falling back to the one before", key)
                continue
            yield Checkpoint(epoch, data)

    def clear(self) -> None:
        """Delete every checkpoint of the job, those of other inputs too."""
        for key in self.storage.keys(self.job_folder):
            self.storage.delete(key)

    def _stored(self) -> list[tuple[str, int, str]]:
        return _named(self.storage.keys(self.folder))


def _named(keys: Iterable[str]) -> list[tuple[str, int, str]]:
    names = [(key, _NAME.fullmatch(key.rpartition("/")[2])) for key in keys]
    return [(key, int(name["epoch"]), name["digest"]) for key, name in names if name]


def _last_epoch(keys: Iterable[str]) -> int:
    return max((epoch for _, epoch, _ in _named(keys)), default=0)


def delete_checkpoints_before(storage: Storage, moment: datetime) -> int:
    """Delete the checkpoints of every job that has saved none since ``moment``; return the number of jobs."""
    by_job: dict[str, list[Stored]] = {}
    for stored in storage.listing(_ROOT):
        by_job.setdefault(stored.key.split("/")[1], []).append(stored)
    # All of a job or none: an old one beside a new one is what a running training falls back on.
    old = [found for found in by_job.values() if all(stored.written_at < moment for stored in found)]
    for found in old:
        for stored in found:
            storage.delete(stored.key)
    return len(old)
