"""The models that have been published."""

from dataclasses import dataclass
from hashlib import sha256

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from inference_service.adapters.storage import Storage
from inference_service.errors import DamagedModel, UnknownModel


class ModelCard(BaseModel):
    """What is known of a published model.

    Attributes:
        digest: SHA-256 of its ONNX file, in hex: the model's version.
        accuracy: Part of the held-out rows that it labels rightly, from 0 to 1.
        features: Numbers in each row that it takes.
        labels: The answers that it can give, in the order of its probabilities.
        dataset_digest: SHA-256 of the data set's file, in hex.
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


@dataclass(frozen=True)
class Registry:
    """Models in storage: ``models/<name>/<digest>.onnx``, a card beside each, and ``latest.json``, one card's copy."""

    storage: Storage

    def publish(self, card: ModelCard, onnx: bytes) -> ModelCard:
        """Store a model and make it the latest of its name; the pointer is written last.

        A job that runs again after it has published keeps its first card, and does not take the place of a model that
        was published since. Two different jobs that publish the same name at one moment leave either as the latest.
        """
        self.storage.put(f"models/{card.model}/{card.digest}.onnx", onnx)
        first = self._card(f"models/{card.model}/{card.digest}.json")
        if first and first.job_id == card.job_id:
            latest = self._card(_pointer(card.model))
            if latest is None or latest.trained_at <= first.trained_at:
                self._write(_pointer(card.model), first)
            return first
        self._write(f"models/{card.model}/{card.digest}.json", card)
        self._write(_pointer(card.model), card)
        return card

    def latest(self, model: str) -> ModelCard:
        """The card of a model's latest version.

        Raises:
            UnknownModel: no model of that name has been published.
            DamagedModel: the pointer is not readable.
        """
        card = self._card(_pointer(model))
        if card is None:
            raise UnknownModel(f"no model {model} has been published: train it first, then retry the job")
        return card

    def read(self, model: str, digest: str) -> bytes:
        """A model's ONNX file.

        Raises:
            UnknownModel: there is no such version.
            DamagedModel: the bytes do not have that digest.
        """
        key = f"models/{model}/{digest}.onnx"
        data = self.storage.get(key)
        if data is None:
            raise UnknownModel(f"model {model} has no version {digest}: leave the digest out for the latest one")
        if sha256(data).hexdigest() != digest:
            raise DamagedModel(f"{key} does not have the digest in its name: restore it or train the model again")
        return data

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


def _pointer(model: str) -> str:
    return f"models/{model}/latest.json"
