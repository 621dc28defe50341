"""What kind of server the job store is: no cluster, and one that evicts nothing."""

from typing import Final

from jobkit.errors import StoreRefused
from jobkit.store.redis_client import RedisClient
from jobkit.store.redis_errors import NO_CLUSTER

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

    def _says(self, name: str) -> str:
        try:
            return str(self._client.ask("INFO").get(name, ""))
        except StoreRefused:  # of INFO
            return ""
