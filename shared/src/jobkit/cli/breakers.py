"""``jobkit breakers``: which dependencies are held to be down, and since when."""

from collections.abc import Sequence

import typer

from jobkit.breaker.redis import RedisSwitches
from jobkit.breaker.switches import OpenBreaker
from jobkit.cli.output import iso, print_blocks, print_json, readable
from jobkit.cli.platform import one_line_errors, platform
from jobkit.nearest import nearest


def show(*, as_json: bool) -> None:
    """Print all breakers that are not closed, by name."""
    with one_line_errors():
        opened = _switches().opened()
    if as_json:
        print_json([_document(breaker) for breaker in opened])
    elif opened:
        print_blocks(
            {
                "breaker": breaker.name,
                "state": _state(breaker),
                "since": readable(breaker.since),
                "next probe": _next_probe(breaker),
                "reason": breaker.reason,
            }
            for breaker in opened
        )
    else:
        typer.echo("no breaker is open")


def close(name: str) -> None:
    """Close a breaker, named in full or by its last part; exit status 1 if no open breaker has that name."""
    with one_line_errors():
        switches = _switches()
        opened = [breaker.name for breaker in switches.opened()]
        found = [one for one in opened if name in (one, one.partition("/")[2])]
        chosen = found[0] if found else name  # a worker of an older version lists none, but has opened it
        if len(found) <= 1 and switches.reset(chosen):
            typer.echo(f"{chosen} is closed: its jobs run when their pause is over, and may open it again")
            return
    typer.echo(_complaint(name, found, opened), err=True)
    raise typer.Exit(1)


def _switches() -> RedisSwitches:
    settings = platform()
    return RedisSwitches(settings.store_url, settings.store_timeout_seconds, settings.namespace)


def _complaint(name: str, found: Sequence[str], opened: Sequence[str]) -> str:
    if len(found) > 1:
        return f"{name} is a breaker of several services: say {' or '.join(found)}"
    if not opened:
        return f"breaker {name!r} is not open: no breaker is"
    meant = nearest(name, opened)
    return f"breaker {name!r} is not open" + (f": did you mean {meant}?" if meant else f", only {', '.join(opened)}")


def _state(breaker: OpenBreaker) -> str:
    if breaker.probing:
        return "probing"
    return "open" if breaker.probe_in else "probe due"


def _next_probe(breaker: OpenBreaker) -> str:
    if breaker.probing:
        return "a job probes now"
    seconds = breaker.probe_in.total_seconds()
    return f"in {seconds:.0f} s" if seconds else "the next job of its actors"


def _document(breaker: OpenBreaker) -> dict[str, object]:
    return {
        "name": breaker.name,
        "state": _state(breaker),
        "since": iso(breaker.since),
        "next_probe_in_seconds": breaker.probe_in.total_seconds(),
        "reason": breaker.reason or None,
    }
