"""What each guarantee costs: jobkit as it is shipped, and with one thing changed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from results import Drain
from room import Room

SHIPPED: Final = "as shipped"


@dataclass(frozen=True)
class Variant:
    """One thing changed.

    Attributes:
        name: As the page calls it.
        environment: Variables of the worker.
        sync: When Redis writes to the disk.
        traced: Whether spans are exported.
    """

    name: str
    environment: Mapping[str, str] = field(default_factory=dict)
    sync: str = "always"
    traced: bool = False


VARIANTS = (
    Variant(SHIPPED),
    Variant("without INFO logs", {"JOBKIT_LOG_LEVEL": "WARNING"}),
    Variant("Redis writes to the disk once a second", sync="everysec"),
    Variant("without Redis: records in the worker's memory, which protect nothing", {"BENCH_STORE": "memory"}),
    Variant("the actor has a circuit breaker", {"BENCH_BREAKER": "1"}),
    Variant("1 % of the jobs export spans", {"OTEL_TRACES_SAMPLER_ARG": "0.01"}, traced=True),
    Variant("all jobs export spans", {"OTEL_TRACES_SAMPLER_ARG": "1"}, traced=True),
)


def drain(room: Room, variant: Variant, count: int, sink: str) -> Drain:
    """Let jobkit's workers empty a queue of ``count`` jobs that do nothing."""
    spans = {
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{sink}/v1/traces",
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
    }
    room.fill(count)
    room.rig.sync(variant.sync)
    try:
        with room.worker({**(spans if variant.traced else {}), **variant.environment}) as worker:
            return worker.drain(count)
    finally:
        room.rig.sync("always")
