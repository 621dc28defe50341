"""What kind of server the job store is: no cluster, and one that evicts nothing; and how much memory it has left."""

from typing import Final

from jobkit.errors import StoreRefused
from jobkit.store.redis_client import RedisClient
from jobkit.store.redis_errors import NO_CLUSTER
from jobkit.store.room import Memory

_EVICTS: Final = "so it forgets records when its memory is full, and those jobs may run again: set noeviction"


class RedisServer:
    """What a Redis says of itself. A managed one may keep that to itself, which is no fault.

    Args:
        client: Asks it.
    """

    def __init__(self, client: RedisClient) -> None:
        self._client = client

    def refuse_cluster(self) -> None:
        """Raise ``StoreRefused`` if it runs in cluster mode, be it with one shard.

        A script may not touch keys of several slots there, so leases could not be renewed together, and jobs would run
        twice.
        """
        if self._says("cluster_enabled") == "1":
            raise StoreRefused(f"the Redis in JOBKIT_STORE_URL is in cluster mode: {NO_CLUSTER}")

    def advice(self) -> list[str]:
        """Return a line for each of its settings that endangers records."""
        policy = self._says("maxmemory_policy")
        if policy in {"", "noeviction"}:
            return []
        return [f"the Redis in JOBKIT_STORE_URL has maxmemory-policy {policy}, {_EVICTS}"]

    def memory(self) -> Memory | None:
        """Return what it uses of its memory; None if that has no limit, or it does not say."""
        try:
            told = self._client.ask("INFO", "memory")
        except StoreRefused:  # of INFO
            return None
        used, limit = (int(told.get(name, 0)) for name in ("used_memory", "maxmemory"))
        # Buffers for replicas and for the append-only file do not count against the limit.
        return Memory(used - int(told.get("mem_not_counted_for_evict", 0)), limit) if limit else None

    def _says(self, name: str) -> str:
        try:
            return str(self._client.ask("INFO").get(name, ""))
        except StoreRefused:  # of INFO
            return ""
