"""``jobkit schedules``: what runs by the clock."""

import typer

from jobkit.cli.output import iso, print_blocks, print_json, readable
from jobkit.cli.platform import one_line_errors, platform
from jobkit.schedule.registry import RedisSchedules


def show(*, as_json: bool) -> None:
    """Print all schedules, by name."""
    settings = platform()
    with one_line_errors():
        registry = RedisSchedules(settings.store_url, settings.store_timeout_seconds, settings.namespace)
        now = registry.now()
        rows = [(s, registry.last_sent(s.name, s.when), s.cron.next_after(now)) for s in registry.schedules()]
    if as_json:
        print_json(
            [
                {"name": s.name, "cron": s.spec, "timezone": s.timezone, "last": iso(last), "next": iso(following)}
                for s, last, following in rows
            ]
        )
    elif rows:
        print_blocks(
            {
                "schedule": s.name,
                "cron": s.spec,
                "time zone": s.timezone,
                "last": readable(last) or "never",
                "next": readable(following) or "never",
            }
            for s, last, following in rows
        )
    else:
        typer.echo("no schedules: no worker has announced one")
