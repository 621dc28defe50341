"""What an operator decides about the inference service."""

from pathlib import Path
from typing import ClassVar

from pydantic import Field, field_validator
from pydantic_settings import SettingsConfigDict

from jobkit.addresses.storage import storage_url
from jobkit.contracts.inference import MAX_ROWS
from jobkit.settings import DEVELOPMENT_ONLY, ServiceSettings

_SCHEMES = ("file", "memory", "s3", "gs", "az")


class InferenceSettings(ServiceSettings):
    """Settings of the inference service, read from ``INFERENCE_…``."""

    model_config = SettingsConfigDict(env_prefix="INFERENCE_")

    preloads: ClassVar[bool] = False  # NumPy starts threads when it is imported

    threads: int = Field(
        default=2,
        ge=1,
        le=256,
        description="Threads per process: predicting and training need the CPU, waiting for storage does not.",
    )
    stop_grace_seconds: int = Field(
        default=630,
        ge=5,
        le=7200,
        description="Seconds from SIGTERM to SIGKILL: a training's time limit of 600, and 30 to record what it did.",
    )
    storage_url: str = Field(
        default_factory=lambda: Path("var/inference").absolute().as_uri(),
        json_schema_extra=DEVELOPMENT_ONLY,
        description=(
            "Where data sets, checkpoints and models live: file:///folder, s3://bucket/prefix, gs:// or az://. "
            "Default: var/inference in the working directory. All inference workers need the same storage; "
            "credentials come from the provider's usual variables (AWS_…)."
        ),
    )
    model_cache_size: int = Field(
        default=4,
        ge=1,
        le=256,
        description="Models kept loaded per process; each costs its file's size in memory, and some.",
    )
    max_rows: int = Field(
        default=MAX_ROWS,
        ge=1,
        le=MAX_ROWS,
        description="Rows in one prediction job; the contract's limit, or less to bound its time.",
    )
    checkpoints_kept: int = Field(
        default=2,
        ge=2,
        le=10,
        description="Epochs kept per running training: the last one, and one to fall back on should it be damaged.",
    )
    dataset_max_mib: int = Field(
        default=256,
        ge=1,
        le=16_384,
        description="Largest data set in MiB, packed and unpacked: a training holds about three times that in memory.",
    )
    training_max_mib: int = Field(
        default=768,
        ge=16,
        le=65_536,
        description=(
            "MiB for a training's weights and batch beside its data: features, labels, hidden units and rows of a "
            "batch are multiplied, and a job that needs more is refused."
        ),
    )
    training_slice_seconds: int = Field(
        default=480,
        ge=1,
        le=540,
        description=(
            "Seconds after which a training is requeued at the end of an epoch and continues as a new delivery. "
            "It does so earlier if another epoch would not end before the time limit of 600."
        ),
    )

    @field_validator("storage_url")
    @classmethod
    def _storage_is_usable(cls, value: str) -> str:
        return storage_url(value, schemes=_SCHEMES, folders=False)
