"""What the inbox says to each kind of database."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Dialect:
    """The statements of one kind of database; ``{table}`` stands for the table, ``?`` for a parameter.

    Attributes:
        name: As SQLAlchemy calls it.
        definition: The table.
        exists: Whether it is there; empty if ``create`` is cheap and needs no rights where it is.
        create: Makes it unless it is there, also when several do so at once.
        forget: Remove marks that are older than this many seconds.
        forgotten: How many that were; empty if ``forget`` says so itself.
        claim: Set the mark; no row if it is set. Waits for another transaction that has set it and is still open.
        find: The result that is kept with a mark.
        keep: Put the result beside the mark.
    """

    name: str
    definition: str
    exists: str
    create: str
    forget: str
    forgotten: str = ""
    claim: str = "INSERT INTO {table} (key) VALUES (?) ON CONFLICT DO NOTHING RETURNING key"
    find: str = "SELECT result FROM {table} WHERE key = ?"
    keep: str = "UPDATE {table} SET result = ? WHERE key = ?"


_POSTGRESQL_TABLE = """{table} (
    key text PRIMARY KEY,
    result text,
    done_at timestamp with time zone NOT NULL DEFAULT now()
)"""

POSTGRESQL = Dialect(
    name="postgresql",
    definition=f"CREATE TABLE {_POSTGRESQL_TABLE}",
    exists="SELECT to_regclass('{table}') IS NOT NULL",
    # CREATE TABLE IF NOT EXISTS alone fails when two sessions run it at once; one statement, so that the lock holds
    # until the table is there even if each statement commits by itself.
    create=(
        "DO $inbox$ BEGIN PERFORM pg_advisory_xact_lock(hashtext('jobkit.inbox')); "
        f"CREATE TABLE IF NOT EXISTS {_POSTGRESQL_TABLE}; END $inbox$"
    ),
    forget=(
        "WITH gone AS (DELETE FROM {table} WHERE done_at < now() - make_interval(secs => ?) RETURNING 1) "
        "SELECT count(*) FROM gone"
    ),
)

_SQLITE_TABLE = """{table} (
    key TEXT PRIMARY KEY NOT NULL,
    result TEXT,
    done_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
)"""

#: From version 3.35 of SQLite on, for RETURNING.
SQLITE = Dialect(
    name="sqlite",
    definition=f"CREATE TABLE {_SQLITE_TABLE}",
    exists="",
    create=f"CREATE TABLE IF NOT EXISTS {_SQLITE_TABLE}",
    forget="DELETE FROM {table} WHERE done_at < strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '-' || ? || ' seconds')",
    forgotten="SELECT changes()",
)
