"""The delay ladder, played through on paper: bindings, times to live and dead-letter exchanges as declared."""

import math
from collections import defaultdict
from collections.abc import Mapping
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobkit.broker import due, ladder
from jobkit.broker.due import DUE_EXCHANGE, due_queue
from jobkit.broker.ladder import DELIVERY_EXCHANGE, LEVELS, route, target_of

QUEUES = ["b", "a.b", "email", "email.high", "a.b.c", "c", "inference.training"]
LONGEST = 2**LEVELS - 1


class Topology:
    """Records declarations like a channel, and moves messages like a broker."""

    def __init__(self) -> None:
        self.ttl: dict[str, int] = {}
        self.dead_letters_to: dict[str, tuple[str, str | None]] = {}
        self.alternates: dict[str, str] = {}
        self.queues_of: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
        self.exchanges_of: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)

    def exchange_declare(
        self,
        exchange: str,
        kind: str,
        *,
        durable: bool,
        internal: bool = False,
        arguments: Mapping[str, str] | None = None,
    ) -> None:
        assert (kind, durable) == ("fanout" if exchange.endswith(".dlx") else "topic", True)
        assert internal == (exchange == DUE_EXCHANGE)
        if arguments:
            self.alternates[exchange] = arguments["alternate-exchange"]

    def queue_declare(self, queue: str, *, durable: bool, arguments: Mapping[str, object]) -> None:
        assert durable
        assert arguments["x-queue-type"] == "quorum"
        if "x-message-ttl" not in arguments:
            return
        assert isinstance(arguments["x-message-ttl"], int)
        self.ttl[queue] = arguments["x-message-ttl"]
        key = arguments.get("x-dead-letter-routing-key")
        self.dead_letters_to[queue] = str(arguments["x-dead-letter-exchange"]), str(key) if key else None

    def queue_bind(self, queue: str, exchange: str, routing_key: str = "#") -> None:
        self.queues_of[exchange].append((routing_key, queue))

    def exchange_bind(self, destination: str, source: str, routing_key: str) -> None:
        self.exchanges_of[source].append((routing_key, destination))

    def reached(self, exchange: str, key: str) -> list[str]:
        """The queues in which a message lands, each once for each way that leads to it."""
        if exchange == "":
            return [key]
        landed = [queue for pattern, queue in self.queues_of[exchange] if matches(pattern, key)]
        for pattern, destination in self.exchanges_of[exchange]:
            if matches(pattern, key):
                landed += self.reached(destination, key)
        if not landed and exchange in self.alternates:
            return self.reached(self.alternates[exchange], key)
        return landed

    def play(self, exchange: str, key: str) -> tuple[str, int]:
        """Where a message ends, and the seconds that it has waited by then."""
        waited = 0
        while True:
            landed = self.reached(exchange, key)
            assert len(landed) == 1, f"{key} lands in {landed}"
            if landed[0] not in self.ttl:
                return landed[0], waited // 1000
            waited += self.ttl[landed[0]]
            exchange, new_key = self.dead_letters_to[landed[0]]
            key = new_key or key


def matches(pattern: str, key: str) -> bool:
    """AMQP's topics: ``*`` is one word, ``#`` at the end is any number of them."""
    wanted, words = pattern.split("."), key.split(".")
    if wanted[-1] == "#":
        wanted, words = wanted[:-1], words[: len(wanted) - 1]
    return len(wanted) == len(words) and all(w in {"*", word} for w, word in zip(wanted, words, strict=True))


@pytest.fixture(scope="module")
def topology() -> Topology:
    built = Topology()
    ladder.declare_ladder(built)
    due.declare_exchange(built)
    for queue in QUEUES:
        ladder.bind(built, queue)
        due.declare_queue(built, queue)
    return built


@given(st.integers(0, LONGEST), st.sampled_from(QUEUES))
def test_any_whole_number_of_seconds_is_waited_and_the_right_queue_reached(
    topology: Topology, seconds: int, queue: str
) -> None:
    assert topology.play(*route(queue, timedelta(seconds=seconds))) == (queue, seconds)


@given(st.integers(1, LONGEST), st.sampled_from(QUEUES))
def test_a_message_of_an_earlier_version_reaches_its_queue_without_a_due_queue(
    topology: Topology, seconds: int, queue: str
) -> None:
    exchange, key = route(queue, timedelta(seconds=seconds), due=False)
    assert key.split(".", LEVELS)[-1] == queue
    assert topology.play(exchange, key) == (queue, seconds)
    assert target_of(exchange, key) == queue


@given(st.floats(0, LONGEST - 1), st.sampled_from(QUEUES))
def test_a_part_of_a_second_is_rounded_up(topology: Topology, seconds: float, queue: str) -> None:
    delay = timedelta(seconds=seconds)
    assert topology.play(*route(queue, delay)) == (queue, math.ceil(delay.total_seconds()))


@pytest.mark.parametrize("seconds", [0, 1, 2, 3, *(2**n - 1 for n in range(3, 29)), *(2**n for n in range(2, 28))])
def test_the_edges_of_every_level_hold(topology: Topology, seconds: int) -> None:
    assert topology.play(*route("a.b", timedelta(seconds=seconds))) == ("a.b", seconds)


def test_no_delay_goes_straight_to_the_queue() -> None:
    assert route("email.high", timedelta()) == ("", "email.high")


def test_a_message_enters_at_its_highest_digit_and_so_takes_no_needless_hop(topology: Topology) -> None:
    exchange, key = route("email", timedelta(seconds=5))
    assert exchange == "jobkit.delay.02"
    assert topology.reached(exchange, key) == ["jobkit.delay.02"]


def test_a_name_that_ends_like_another_does_not_get_its_messages(topology: Topology) -> None:
    prefix = "0." * LEVELS
    assert topology.reached(DELIVERY_EXCHANGE, f"{prefix}a.b") == ["a.b"]
    assert topology.reached(DELIVERY_EXCHANGE, f"{prefix}b") == ["b"]
    assert topology.reached(DELIVERY_EXCHANGE, f"{prefix}nobody.b") == []
    assert topology.reached(DELIVERY_EXCHANGE, f"{prefix}due.a.b") == [due_queue("a.b")]
    assert topology.reached(DELIVERY_EXCHANGE, f"{prefix}due.b") == [due_queue("b")]


def test_what_no_due_queue_takes_is_parked(topology: Topology) -> None:
    assert topology.play(*route("nobody", timedelta(seconds=3))) == ("jobkit.dlq", 3)
    assert topology.play(*route("nobody.b", timedelta(seconds=3))) == ("jobkit.dlq", 3)


def test_the_longest_key_fits_into_amqp() -> None:
    longest_queue = "q" * 100 + "." + "lane" * 10
    for seconds in (1, LONGEST):
        assert len(route(longest_queue, timedelta(seconds=seconds))[1].encode()) < 255


@pytest.mark.parametrize(
    "delay", [timedelta(seconds=2**28), timedelta(seconds=2**28 - 1, microseconds=1), timedelta.max]
)
def test_a_delay_that_the_ladder_does_not_reach_is_refused_with_the_bound(delay: timedelta) -> None:
    with pytest.raises(ValueError, match=r"above 268,435,455 s \(8.5 years\)"):
        route("email", delay)


@pytest.mark.parametrize("delay", [timedelta(milliseconds=-3), timedelta(seconds=-1), timedelta.min])
def test_a_moment_that_has_passed_means_now(delay: timedelta) -> None:
    assert route("email", delay) == ("", "email")


@pytest.mark.parametrize("seconds", [0, 5, 2**28 - 1])
def test_the_target_of_a_routing_key_is_its_queue(seconds: int) -> None:
    assert target_of(*route("email.high", timedelta(seconds=seconds))) == "email.high"
