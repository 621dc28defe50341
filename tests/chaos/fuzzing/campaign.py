"""What is sent to one queue: every kind of malice at least once, in an order that a seed decides."""

from collections.abc import Iterator
from random import Random

from breaches import kinds as breaches_of
from echoes import ECHOES
from forgeries import FIELDS, STEERING
from hostile import LEGAL, Hostile, Kind, Target, forge, untouched
from nonsense import NONSENSE
from trappings import HEADERS, PROPERTIES

#: The good jobs between the bad ones.
GOOD = Kind("a good job", LEGAL, untouched, rarity=2)

#: Kinds of this rarity are of half a megabyte and more.
LARGE = 50


class Campaign:
    """The messages for one queue.

    Args:
        target: The queue.
        seed: The same seed gives the same messages, but for their timestamps.
    """

    def __init__(self, target: Target, seed: str) -> None:
        self.target = target
        self._draw = Random(f"{seed}/{target.queue}")
        self._seed = seed
        self._number = 0
        common = (GOOD, *NONSENSE, *FIELDS, *STEERING, *HEADERS, *PROPERTIES)
        self.kinds: tuple[Kind, ...] = (*common, *target.nasty, *breaches_of(target))

    @property
    def least(self) -> int:
        """So many messages hold one of each kind."""
        return len(self.kinds) + sum(len(list(echo(self.target, "", Random()))) for echo in ECHOES)

    def largest(self, count: int) -> list[Hostile]:
        """``count`` messages of each of the kinds that are so large that rounds hold few of them."""
        kinds = [kind for kind in self.kinds if kind.rarity >= LARGE] * count
        messages = [m for kind in kinds for m in forge(kind, self.target, self._token(), self._draw)]
        return list(self._shuffled(messages))

    def round(self, count: int) -> list[Hostile]:
        """About ``count`` messages; one of each kind whatever ``count`` says."""
        messages = [message for kind in self.kinds for message in forge(kind, self.target, self._token(), self._draw)]
        messages += [message for echo in ECHOES for message in echo(self.target, self._token(), self._draw)]
        weights = [1 / kind.rarity for kind in self.kinds]
        while len(messages) < count:
            if self._draw.random() < len(ECHOES) / len(self.kinds):
                messages += self._draw.choice(ECHOES)(self.target, self._token(), self._draw)
            else:
                (kind,) = self._draw.choices(self.kinds, weights)
                messages += forge(kind, self.target, self._token(), self._draw)
        return list(self._shuffled(messages))

    def _shuffled(self, messages: list[Hostile]) -> Iterator[Hostile]:
        # The messages of one id stay together and in their order: that is what makes them meet.
        groups: dict[str, list[Hostile]] = {}
        for message in messages:
            groups.setdefault(message.token, []).append(message)
        order = list(groups)
        self._draw.shuffle(order)
        for token in order:
            yield from groups[token]

    def _token(self) -> str:
        self._number += 1
        return f"{self._seed}-{self.target.queue}-{self._number:06}"
