"""The benchmark tells what was used between two moments, neither before nor after."""

import os
import sys
import time

import pytest
from process_tree import ProcessTree
from watch import ALL, BUSY, Watch


@pytest.fixture
def watch() -> Watch:
    """Looks at 10, 20 and 30 s: much work before 10 s and from 20 s on, on two cores."""
    watch = Watch({"worker": ProcessTree(os.getpid()), "broker": ProcessTree(os.getpid())})
    watch.note(10, {"worker": 100, "broker": 7, BUSY: 500, ALL: 1000})
    watch.note(20, {"worker": 101, "broker": 9, BUSY: 510, ALL: 1020})
    watch.note(30, {"worker": 111, "broker": 11, BUSY: 530, ALL: 1040})
    return watch


def test_a_counter_grows_evenly_between_two_looks(watch: Watch) -> None:
    assert watch.between("worker", 10, 20) == pytest.approx(1)
    assert watch.between("worker", 15, 20) == pytest.approx(0.5)
    assert watch.between("worker", 15, 25) == pytest.approx(5.5)
    assert watch.between("worker", 10, 30) == pytest.approx(11)


def test_the_cores_are_full_by_what_was_measured_and_by_others(watch: Watch) -> None:
    assert watch.fullness(10, 20) == pytest.approx(0.5)
    assert watch.fullness(20, 30) == pytest.approx(1)
    assert watch.others(10, 20) == pytest.approx((10 - 1 - 2) / 20)
    assert watch.others(20, 30) == pytest.approx((20 - 10 - 2) / 20)


@pytest.mark.parametrize("moment", [9.9, 30.1])
def test_what_was_not_watched_is_not_told(watch: Watch, moment: float) -> None:
    with pytest.raises(ValueError, match="not within the looks"):
        watch.between("worker", moment, 20)


@pytest.mark.skipif(sys.platform != "linux", reason="reads proc(5)")
def test_a_look_notes_the_time_of_the_tree() -> None:
    watch = Watch({"worker": ProcessTree(os.getpid())})
    watch.look()
    begin, first = time.process_time(), time.time()
    while time.process_time() - begin < 0.3:
        pass
    last = time.time()
    watch.look()
    assert watch.between("worker", first, last) == pytest.approx(0.3, abs=0.1)
