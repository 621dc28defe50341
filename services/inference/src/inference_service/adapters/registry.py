"""The models that have been published."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from inference_service.adapters.evaluation import Report
from inference_service.adapters.storage import Storage
from inference_service.errors import DamagedModel, UnknownModel

_log = logging.getLogger(__name__)


class ModelCard(BaseModel):
    """What is known of a published model.

    Attributes:
        digest: SHA-256 of its ONNX file, in hex: the model's version.
        accuracy: Part of the held-out rows that it labels rightly, from 0 to 1.
        features: Numbers in each row that it takes.
        labels: The answers that it can give, in the order of its probabilities.
        dataset_digest: SHA-256 of the data set's file, in hex.
        sent_at: When the job that trained it was sent.
        feature_names: The features' names, in the order of a row.
        parameters: Fields of the job that trained it.
        metrics: Of the held-out rows, by name: see ``evaluation.Report``.
        versions: The libraries that decided the weights.
        warnings: What the training found odd.
    """

    model_config = ConfigDict(frozen=True)

    model: str
    digest: str
    accuracy: float
    trained_at: AwareDatetime
    features: int
    labels: list[int | str]
    job_id: str
    dataset: str
    dataset_digest: str
    sent_at: AwareDatetime | None = None
    feature_names: list[str] | None = None
    parameters: dict[str, int | float | str | None] = Field(default_factory=dict)
    metrics: dict[str, float] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=dict)
    warnings: list[str] = Field(default_factory=list)

    @property
    def moment(self) -> datetime:
        """What decides which of two versions is the later one."""
        return self.sent_at or self.trained_at


class Decision(BaseModel):
    """That a version is the latest from a moment on: when the job was sent that said so."""

    model_config = ConfigDict(frozen=True)

    digest: str
    moment: AwareDatetime
    job_id: str

    @property
    def name(self) -> str:
        """Names sort as the moments do; two jobs of one moment have an order, too."""
        return self.moment.astimezone(UTC).strftime("%Y%m%dT%H%M%S.%f") + _of_job(self.job_id)


@dataclass(frozen=True)
class Registry:
    """Models in storage, in a folder ``models/<name>/``.

    - ``<digest>.onnx``, and beside each its card ``<digest>.json`` and ``<digest>.report.json``;
    - ``history/``, one ``Decision`` for each version that became the latest;
    - ``latest.json``, the card of the version that was decided on last.
    """

    storage: Storage

    def publish(self, card: ModelCard, onnx: bytes, *, report: Report | None = None, latest: bool = True) -> ModelCard:
        """Store a model, and make it the latest of its name if ``latest`` says so; return its card.

        A job that runs again counts from the moment of its first run, so it takes the place of no later decision.
        """
        folder = f"models/{card.model}"
        self.storage.put(f"{folder}/{card.digest}.onnx", onnx)
        if report is not None:
            self.storage.put(f"{folder}/{card.digest}.report.json", report.model_dump_json().encode())
        kept = self._usable_card(f"{folder}/{card.digest}.json")
        # Another job may have trained the same bytes. The card tells of the one that was sent last.
        if kept is None or kept.moment <= card.moment:
            if kept is not None and kept.job_id == card.job_id:
                card = card.model_copy(update={"trained_at": kept.trained_at})
            self._write(f"{folder}/{card.digest}.json", card)
        if latest:
            self._begin_history(card.model)
            moment = card.sent_at or self._first_moment(card.model, card.job_id) or card.trained_at
            self._decide(card.model, Decision(digest=card.digest, moment=moment, job_id=card.job_id))
        return card

    def promote(self, model: str, digest: str, *, moment: datetime, job_id: str) -> ModelCard:
        """Make a version the latest, and return the card of the one that is: of a later decision, if there is one.

        Raises:
            UnknownModel: there is no such version.
            DamagedModel: its files are not what their names promise.
        """
        self.read(model, digest)
        if self._card(f"models/{model}/{digest}.json") is None:
            raise DamagedModel(f"models/{model}/{digest}.json is gone: restore it or train the model again")
        self._begin_history(model)
        self._decide(model, Decision(digest=digest, moment=moment, job_id=job_id))
        return self.latest(model)

    def latest(self, model: str) -> ModelCard:
        """The card of a model's latest version.

        Raises:
            UnknownModel: no model of that name has been published.
            DamagedModel: the pointer is not readable.
        """
        card = self._card(_pointer(model))
        if card is None:
            raise UnknownModel(f"no model {model} has been published as the latest: train it first, then retry the job")
        return card

    def current(self, model: str) -> ModelCard | None:
        """The card of a model's latest version, None if there is none that can be read."""
        return self._usable_card(_pointer(model))

    def read(self, model: str, digest: str, *, latest: bool = False) -> bytes:
        """A model's ONNX file.

        Args:
            model: Its name.
            digest: Its version.
            latest: The digest comes from the pointer to the latest version.

        Raises:
            UnknownModel: there is no such version.
            DamagedModel: the bytes do not have that digest, or the latest version's file is gone.
        """
        key = f"models/{model}/{digest}.onnx"
        data = self.storage.get(key)
        if data is None and latest:
            raise DamagedModel(
                f"{key} is gone, and {_pointer(model)} names it as the latest version: restore the file, or promote "
                "another version"
            )
        if data is None:
            raise UnknownModel(f"model {model} has no version {digest}: leave the digest out for the latest one")
        if sha256(data).hexdigest() != digest:
            raise DamagedModel(f"{key} does not have the digest in its name: restore it or train the model again")
        return data

    def _decide(self, model: str, decision: Decision) -> None:
        """Note a decision, and let the pointer follow the last one.

        Two jobs may do so at one time. Each notes its own before it reads all, and reads them again after it has moved
        the pointer, so the last of them to do that sees both.
        """
        own = f"models/{model}/history/{decision.name}"
        self.storage.put(own, decision.model_dump_json().encode())
        followed = ""
        while followed != (last := max([own, *self._decisions(model)])):
            followed = last
            card = next(self._cards_from(model, last), None)
            if card is not None:
                self._write(_pointer(model), card)

    def _begin_history(self, model: str) -> None:
        """Take over the pointer of a version of this service that kept no history."""
        if not self._decisions(model) and (latest := self.current(model)):
            first = Decision(digest=latest.digest, moment=latest.moment, job_id=latest.job_id)
            self.storage.put(f"models/{model}/history/{first.name}", first.model_dump_json().encode())

    def _first_moment(self, model: str, job_id: str) -> datetime | None:
        """When a job decided first, for a run that was not told when it was sent."""
        decided = (self._decision(key) for key in self._decisions(model) if key.endswith(_of_job(job_id)))
        return next((found.moment for found in decided if found and found.job_id == job_id), None)

    def _cards_from(self, model: str, last: str) -> Iterator[ModelCard]:
        """The cards of the versions that were decided on, from ``last`` backwards; those that are gone are skipped."""
        for key in sorted({last, *self._decisions(model)}, reverse=True):
            decision = self._decision(key) if key <= last else None
            card = decision and self._usable_card(f"models/{model}/{decision.digest}.json")
            if card:
                yield card

    def _decisions(self, model: str) -> list[str]:
        return self.storage.keys(f"models/{model}/history")

    def _decision(self, key: str) -> Decision | None:
        data = self.storage.get(key)
        try:
            return None if data is None else Decision.model_validate_json(data)
        except ValidationError:
            _log.warning("%s is not readable and is left out", key)
            return None

    def _usable_card(self, key: str) -> ModelCard | None:
        try:
            return self._card(key)
        except DamagedModel as error:
            _log.warning("%s", error)
            return None

    def _card(self, key: str) -> ModelCard | None:
        data = self.storage.get(key)
        if data is None:
            return None
        try:
            return ModelCard.model_validate_json(data)
        except ValidationError as error:
            raise DamagedModel(f"{key} is not a model card: delete it and train the model again") from error

    def _write(self, key: str, card: ModelCard) -> None:
        self.storage.put(key, card.model_dump_json(indent=2).encode())


def _of_job(job_id: str) -> str:
    return f"-{sha256(job_id.encode()).hexdigest()[:16]}.json"


def _pointer(model: str) -> str:
    return f"models/{model}/latest.json"
