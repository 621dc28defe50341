"""The benchmark's account of the machine's processors."""

import sys
import time

import pytest
from cores import Cores, cores

STAT = """cpu  1000 200 300 4000 500 60 40 700 90 10
cpu0 1 2 3 4 5 6 7 8 9 10
intr 12345
"""


def test_waiting_is_not_busy_and_what_a_hypervisor_took_was_never_there() -> None:
    assert cores(STAT) == Cores(busy=16.0, all=61.0)


def test_a_text_of_another_form_is_refused() -> None:
    with pytest.raises(ValueError, match="begins with 'cpu0'"):
        cores(STAT.partition("\n")[2])


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/stat")
def test_work_makes_this_machine_busy() -> None:
    before = cores()
    begin = time.thread_time()
    while time.thread_time() - begin < 0.3:
        pass
    after = cores()
    assert after.busy - before.busy >= 0.25
    assert after.all - before.all >= after.busy - before.busy - 1e-6  # differences of floats
