"""The variables that tell the services where the demo wants them to work."""

import os
from collections.abc import Mapping
from pathlib import Path

#: Of the caller's own variables these must not reach the demo: it would send to their mail server, or report to them.
_NOT_INHERITED = ("JOBKIT_", "EMAIL_", "IMAGES_", "ETL_", "INFERENCE_", "SENTRY_", "LOCAL_")

NAMES = ("email", "images", "etl", "inference")  #: The services, in the order of the report.

#: Small, since all of it runs on one machine at once.
_SIZE = {f"{name.upper()}_{size}": count for name in NAMES for size, count in (("PROCESSES", "1"), ("THREADS", "4"))}


def images_folder(folder: Path) -> Path:
    """The images service's storage."""
    return folder / "images"


def etl_folder(folder: Path) -> Path:
    """The etl service's storage."""
    return folder / "etl"


def etl_database(folder: Path) -> Path:
    """The file that the etl service loads into."""
    return folder / "tables.db"


def inference_folder(folder: Path) -> Path:
    """The inference service's storage."""
    return folder / "inference"


def environment(folder: Path, smtp_url: str, backing: Mapping[str, str]) -> dict[str, str]:
    """All variables of the services' processes.

    Args:
        folder: The demo's.
        smtp_url: The mail catcher.
        backing: The variables of broker and store.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_INHERITED)}
    return {
        **inherited,
        **_SIZE,
        **backing,
        "EMAIL_SMTP_URL": smtp_url,
        "IMAGES_STORAGE_URL": str(images_folder(folder)),
        "ETL_STORAGE_URL": str(etl_folder(folder)),
        "ETL_DATABASE_URL": f"sqlite:///{etl_database(folder)}",
        "INFERENCE_STORAGE_URL": inference_folder(folder).as_uri(),
        "JOBKIT_LOG_FORMAT": "console",
        "PYTHONUNBUFFERED": "1",
    }
