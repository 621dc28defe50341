"""A store that fills up is warned of once, and one that is full is told of for as long as it is."""

import logging

import pytest

from jobkit.errors import StoreUnavailable
from jobkit.store.room import Memory, Room

MB = 2**20


class Store:
    """A store that uses so many of its 100 MB."""

    def __init__(self) -> None:
        self.used: int | None = 0
        self.is_away = False
        self.asked = 0

    def memory(self) -> Memory | None:
        self.asked += 1
        if self.is_away:
            raise StoreUnavailable("it is away")
        return None if self.used is None else Memory(self.used * MB, 100 * MB)


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def room(store: Store, caplog: pytest.LogCaptureFixture) -> Room:
    caplog.set_level(logging.WARNING)
    return Room(store.memory)


def look(room: Room, *, times: int = 3, refused: bool = False) -> None:
    """Look so often that the store is asked at least once."""
    for _ in range(times):
        room.look(refused=refused)


def test_a_store_that_gets_scarce_is_warned_of_once_and_again_after_it_had_room(
    store: Store, room: Room, caplog: pytest.LogCaptureFixture
) -> None:
    said = []
    for store.used in (79, 80, 99, 79, 81, 74, 80):
        look(room)
        said.append(len(caplog.messages))
    assert said == [0, 1, 1, 1, 1, 1, 2]
    assert caplog.messages[0].startswith("the job store uses 80 % of its memory (80 of 100 MB). New jobs wait when")


def test_a_full_store_is_told_of_until_it_has_room(store: Store, room: Room) -> None:
    store.used = 99
    look(room)
    assert room.notes() == []
    store.used = 100
    look(room)
    (note,) = room.notes()
    assert note.startswith(
        "the job store is full (100 of 100 MB): running jobs end, and new ones wait until it has room"
    )
    store.used = 99
    look(room)
    assert room.notes() == []


def test_a_store_that_does_not_say_what_it_uses_is_full_if_it_refuses_a_write(store: Store, room: Room) -> None:
    store.used = None
    look(room, times=1, refused=True)
    assert room.notes()[0].startswith("the job store is full: running jobs end")
    look(room)
    assert room.notes() == []


def test_the_store_is_asked_by_one_look_in_three(store: Store, room: Room) -> None:
    look(room, times=9)
    assert store.asked == 3


def test_an_outage_is_no_news(store: Store, room: Room, caplog: pytest.LogCaptureFixture) -> None:
    store.is_away = True
    look(room)
    assert (room.notes(), caplog.messages) == ([], [])
