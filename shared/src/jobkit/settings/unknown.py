"""Variables that nothing reads: a misspelt name leaves a default in force without a word."""

import os
import re
from collections.abc import Iterable
from typing import Final

from jobkit.nearest import nearest
from jobkit.settings.environment import EnvironmentSettings
from jobkit.settings.variables import FILE_SUFFIX, names_of

#: Kubernetes sets these in each pod for a Service named like ours: EMAIL_SERVICE_HOST, EMAIL_PORT_80_TCP_ADDR.
_SERVICE_LINK: Final = re.compile(r"(SERVICE_(HOST|PORT(_\w+)?)|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)")


def unknown_variables(*settings: type[EnvironmentSettings], environ: Iterable[str] | None = None) -> list[str]:
    """Return one line for each variable that has the prefix of these settings and sets none of them.

    Args:
        settings: The classes of all settings that this process reads.
        environ: The names of the variables; those of this process by default.
    """
    known = {
        name
        for one in settings
        for field, info in one.model_fields.items()
        for name in names_of(one, field, info)
        if name.isupper()
    }
    known |= {f"{name}{FILE_SUFFIX}" for name in known}
    prefixes = {prefix.upper() for one in settings if (prefix := one.model_config.get("env_prefix"))}
    return [
        _complaint(name, known)
        for name in sorted(os.environ if environ is None else environ)
        if name.upper() not in known and any(_belongs(name.upper(), prefix) for prefix in prefixes)
    ]


def _belongs(name: str, prefix: str) -> bool:
    return name.startswith(prefix) and not _SERVICE_LINK.fullmatch(name.removeprefix(prefix))


def _complaint(name: str, known: Iterable[str]) -> str:
    meant = nearest(name, sorted(known))
    return f"{name}: there is no such setting, so it changes nothing" + (f". Did you mean {meant}?" if meant else "")
