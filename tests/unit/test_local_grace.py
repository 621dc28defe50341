"""``make run`` gives services as long to stop as they need."""

import importlib
from pathlib import Path

from local_stack.grace import grace_seconds

SERVICES = Path(__file__).resolve().parents[2] / "services"


def test_the_grace_is_no_shorter_than_what_any_service_needs() -> None:
    names = [file.parent.name for file in SERVICES.glob("*/src/*_service/settings.py")]
    classes = [
        getattr(importlib.import_module(f"{name}.settings"), f"{name.removesuffix('_service').title()}Settings")
        for name in names
    ]
    assert grace_seconds({}) == max(found.model_fields["stop_grace_seconds"].default for found in classes)


def test_the_grace_follows_the_services_variables_within_bounds() -> None:
    assert grace_seconds({"ETL_STOP_GRACE_SECONDS": "900", "EMAIL_STOP_GRACE_SECONDS": "5"}) == 900
    assert grace_seconds({"ETL_STOP_GRACE_SECONDS": "5"}) == grace_seconds({})
    assert grace_seconds({"ETL_STOP_GRACE_SECONDS": "soon"}) == grace_seconds({})
    assert grace_seconds({"ETL_STOP_GRACE_SECONDS": "999999"}) == 7200
