"""What the containers are told agrees with what the services' settings say."""

import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # ships no types

from jobkit.settings import DEFAULT_SECRET, PlatformSettings, ServiceSettings

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = (ROOT / "deploy/compose.yaml").read_text()
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE)["services"]
#: The service of each container that runs workers; tests/check sees to it that none is missing.
WORKERS = {
    container: service["image"].removesuffix("-service")
    for container, service in SERVICES.items()
    if service["image"].endswith("-service")
}
OURS = (*WORKERS, "scheduler")


def settings_of(container: str) -> type[ServiceSettings]:
    name = WORKERS[container]
    found: type[ServiceSettings] = getattr(
        importlib.import_module(f"{name}_service.settings"), f"{name.title()}Settings"
    )
    assert issubclass(found, ServiceSettings)
    return found


def tracked_variables() -> dict[str, str]:
    lines = (ROOT / ".env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


@pytest.mark.parametrize("container", WORKERS)
def test_a_container_is_killed_no_sooner_than_its_settings_say(container: str) -> None:
    settings = settings_of(container)
    told = SERVICES[container]["environment"][settings.variable("stop_grace_seconds")]
    assert SERVICES[container]["stop_grace_period"] == f"{told}s"
    assert told >= settings.model_fields["stop_grace_seconds"].default


@pytest.mark.parametrize("container", WORKERS)
def test_every_variable_of_a_worker_is_one_that_it_reads(container: str) -> None:
    settings = settings_of(container)
    known = {settings.variable(field) for field in settings.model_fields}
    known |= {PlatformSettings.variable(field) for field in PlatformSettings.model_fields}
    known |= {"TMPDIR", "OMP_NUM_THREADS"}  # read by Python and by the numeric libraries
    assert set(SERVICES[container]["environment"]) <= known


@pytest.mark.parametrize("container", WORKERS)
def test_a_worker_accepts_what_it_is_told(container: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tracked = tracked_variables()
    for name, value in SERVICES[container]["environment"].items():
        filled = re.sub(r"\$\{(\w+)[^}]*\}", lambda match: tracked[match[1]], str(value))
        monkeypatch.setenv(name, filled.replace("file:///data", tmp_path.as_uri()))
    settings_of(container).load()
    PlatformSettings.load()


@pytest.mark.parametrize("container", WORKERS)
def test_outside_development_a_worker_has_to_be_told_nothing_but_passwords_and_a_sender(
    container: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    told = tracked_variables() | {"JOBKIT_ENVIRONMENT": "production", "EMAIL_SENDER": "jobs@shop.example"}
    for name, value in SERVICES[container]["environment"].items():
        filled = re.sub(r"\$\{(\w+)[^}]*\}", lambda match: told[match[1]], str(value)).replace(DEFAULT_SECRET, "s3cret")
        monkeypatch.setenv(name, filled.replace("file:///data", tmp_path.as_uri()))
    assert settings_of(container).load().left_to_development() == []
    assert PlatformSettings.load().environment == "production"


def test_the_env_file_holds_every_variable_that_the_compose_file_asks_for_and_no_other() -> None:
    asked = set(re.findall(r"(?<!\$)\$\{(\w+)", COMPOSE))
    assert asked == set(tracked_variables())


def test_every_tracked_password_is_the_one_that_is_refused_outside_development() -> None:
    passwords = {value for name, value in tracked_variables().items() if name.endswith("_PASSWORD")}
    assert passwords == {DEFAULT_SECRET}


@pytest.mark.parametrize("container", SERVICES)
def test_no_container_may_gain_privileges_and_each_is_restarted_when_it_fails(container: str) -> None:
    service = SERVICES[container]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["restart"] == ("on-failure" if container in OURS else "unless-stopped")
    assert "mem_limit" in service


@pytest.mark.parametrize("container", OURS)
def test_a_misconfigured_container_ends_with_the_one_status_that_is_not_restarted(container: str) -> None:
    assert SERVICES[container]["environment"]["JOBKIT_MISCONFIGURED_STATUS"] == 0


@pytest.mark.parametrize("container", OURS)
def test_our_containers_write_only_to_their_volumes_and_to_memory(container: str) -> None:
    assert SERVICES[container]["read_only"] is True
    assert SERVICES[container]["tmpfs"][0].startswith("/tmp:")


@pytest.mark.parametrize("container", OURS)
def test_our_containers_wait_for_a_healthy_broker_and_store(container: str) -> None:
    waits = SERVICES[container]["depends_on"]
    assert {name: waits[name]["condition"] for name in ("rabbitmq", "redis")} == {
        "rabbitmq": "service_healthy",
        "redis": "service_healthy",
    }


def test_ports_are_open_to_this_machine_alone() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_every_queue_of_the_inference_service_has_a_container() -> None:
    commands = [SERVICES[name]["command"] for name in ("inference", "training")]
    assert [command[-1] for command in commands] == ["inference", "inference.training"]


def test_the_dockerfiles_of_the_services_differ_only_in_the_name_and_in_what_they_switch_off() -> None:
    texts = {(ROOT / f"services/{name}/Dockerfile").read_text().replace(name, "NAME") for name in set(WORKERS.values())}
    switched_off = re.compile(r"# .*\nENV (?:ORT_DISABLE_TELEMETRY=1|VIPS_WARNING=0)\n")
    assert len({switched_off.sub("", text) for text in texts}) == 1


def test_the_inference_image_reports_nothing_to_the_vendor_of_its_runtime() -> None:
    assert "ENV ORT_DISABLE_TELEMETRY=1" in (ROOT / "services/inference/Dockerfile").read_text()
