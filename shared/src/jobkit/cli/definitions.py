"""``jobkit definitions``: what operations import where services may not declare."""

import importlib
import importlib.util
import pkgutil
from collections.abc import Sequence
from typing import Any

import pika
import typer

from jobkit.broker.definitions import definitions
from jobkit.cli.output import print_json
from jobkit.cli.platform import platform
from jobkit.service import Service

_SUFFIX = "_service"


def show(services: Sequence[str], vhost: str | None) -> None:
    """Print the definitions of these services, or of all that are installed here, as one JSON document."""
    found = {name: _service(name) for name in services or _installed()}
    for name, service in found.items():
        if service is None and name in services:
            typer.echo(f"there is no service {name!r} here: it is named as its folder in services/ is", err=True)
            raise typer.Exit(2)
    queues = sorted({queue for service in found.values() if service is not None for queue in service.queues})
    if vhost is None:
        vhost = pika.URLParameters(platform().broker_urls[0]).virtual_host
    print_json(definitions(queues, vhost))


def _installed() -> list[str]:
    packages = (module.name for module in pkgutil.iter_modules() if module.ispkg)
    return sorted(name.removesuffix(_SUFFIX) for name in packages if name.endswith(_SUFFIX))


def _service(name: str) -> Service[Any, Any] | None:  # Any: of whatever settings and resources
    """The service whose package is named after it: declared in its ``actors``, or else in its ``main``."""
    package = f"{name}{_SUFFIX}"
    if not name.isidentifier() or importlib.util.find_spec(package) is None:
        return None
    for part in ("actors", "main"):
        if importlib.util.find_spec(f"{package}.{part}") is not None:
            declared = vars(importlib.import_module(f"{package}.{part}")).values()
            if found := [one for one in declared if isinstance(one, Service) and one.name == name]:
                return found[0]
    return None
