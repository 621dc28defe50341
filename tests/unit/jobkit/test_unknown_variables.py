"""A variable that nothing reads is warned of, with the name that was probably meant."""

import pytest
from pydantic_settings import SettingsConfigDict

from jobkit.settings import PlatformSettings, ServiceSettings, unknown_variables


class MailSettings(ServiceSettings):
    """A service's settings."""

    model_config = SettingsConfigDict(env_prefix="MAIL_")


def told(*names: str) -> list[str]:
    return unknown_variables(PlatformSettings, MailSettings, environ=names)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("JOBKIT_BROKER_ULR", "JOBKIT_BROKER_URL"),
        ("JOBKIT_STORE_TIMEOUT", "JOBKIT_STORE_TIMEOUT_SECONDS"),
        ("JOBKIT_STORE_URL_FIEL", "JOBKIT_STORE_URL_FILE"),
        ("jobkit_broker_ulr", "JOBKIT_BROKER_URL"),  # names are read in any case
        ("MAIL_PROCESS", "MAIL_PROCESSES"),
    ],
)
def test_a_misspelt_variable_is_named_with_the_nearest_one(name: str, meant: str) -> None:
    assert told(name) == [f"{name}: there is no such setting, so it changes nothing. Did you mean {meant}?"]


def test_a_variable_that_is_like_no_other_is_named_alone() -> None:
    assert told("JOBKIT_QQQQ_WWWW_ZZZZ") == ["JOBKIT_QQQQ_WWWW_ZZZZ: there is no such setting, so it changes nothing"]


@pytest.mark.parametrize(
    "name",
    [
        "JOBKIT_STORE_URL",
        "jobkit_store_url",
        "JOBKIT_STORE_URL_FILE",
        "MAIL_THREADS",
        "PATH",
        "MAILER_THREADS",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        # What Kubernetes sets for a Service of that name.
        "MAIL_SERVICE_HOST",
        "MAIL_SERVICE_PORT",
        "MAIL_SERVICE_PORT_HTTP",
        "MAIL_PORT",
        "MAIL_PORT_8080_TCP",
        "MAIL_PORT_8080_TCP_ADDR",
    ],
)
def test_other_variables_are_left_alone(name: str) -> None:
    assert told(name) == []
