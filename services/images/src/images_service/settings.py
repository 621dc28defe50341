"""What an operator can set, all of it through IMAGES_… variables."""

from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field, field_validator
from pydantic_settings import SettingsConfigDict

from jobkit.addresses.storage import storage_url
from jobkit.settings import DEVELOPMENT_ONLY, ServiceSettings


def _prefix(value: str) -> str:
    if any(part in ("", ".", "..") for part in value.split("/")):
        raise ValueError("must be a relative path like 'processed' or 'site/images'")
    return value


class ImagesSettings(ServiceSettings):
    """Settings of the images service."""

    model_config = SettingsConfigDict(env_prefix="IMAGES_")

    preloads: ClassVar[bool] = False  # libvips has pools of threads

    threads: int = Field(
        default=2,
        ge=1,
        le=64,
        description="Threads per process. libvips works outside the interpreter's lock, so that each uses a core.",
    )
    stop_grace_seconds: int = Field(
        default=150,
        ge=5,
        le=7200,
        description="Seconds from SIGTERM to SIGKILL, as the container's stop grace says; above the time limit of 120.",
    )
    storage_url: str = Field(
        default="var/images",
        json_schema_extra=DEVELOPMENT_ONLY,
        description="Where sources are read and outputs are written: a URL (file:///…, s3://bucket/prefix, gs://…, "
        "az://…) or a directory, made if it is missing. Credentials for S3 come from the usual AWS_… variables.",
    )
    output_prefix: Annotated[str, AfterValidator(_prefix)] = Field(
        default="processed",
        description="Folder of the outputs in the storage, apart from the sources so that each can expire by itself.",
    )
    max_bytes: int = Field(
        default=50 * 1024 * 1024,
        ge=1,
        description="Largest source in bytes, refused before it is read; cameras write less, raw files aside.",
    )
    max_pixels: int = Field(
        default=64_000_000,
        ge=1,
        description="Most pixels of an image, source or result, over all frames of an animation; refused by the "
        "header, before decoding.",
    )
    memory_mb: int = Field(
        default=1024,
        ge=64,
        description="Memory for the pixels of all jobs of a process, in MiB; a job waits while others hold it. Reading "
        "takes up to 20 bytes per pixel, of AVIF with more than 8 bits 32. Writing takes 12 as JPEG, PNG or TIFF, 22 "
        "as GIF, 26 as WebP, 30 as AVIF, and 46 to 48 as WebP or AVIF with transparency. A job that needs more alone "
        "is refused. Besides, the process takes some 150 MiB, and each thread the bytes of its source.",
    )
    cache_control: str = Field(
        default="",
        max_length=200,
        pattern=r"^[\x20-\x7e]*$",
        description="Cache-Control header of the outputs in S3, Google Cloud Storage and Azure, for example "
        "'public, max-age=31536000, immutable': the object under a key never changes. Empty for none.",
    )

    @field_validator("storage_url")
    @classmethod
    def _storage_is_usable(cls, value: str) -> str:
        return storage_url(value, schemes=("file", "s3", "gs", "az", "memory"))
