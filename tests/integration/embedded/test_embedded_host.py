"""A worker inside another program leaves that program to itself."""

import multiprocessing

from embedded_host import STATUS, run


def test_a_stopped_worker_ends_neither_its_host_nor_takes_its_signals() -> None:
    # A child, as the workers of a web server are: what belongs to Dramatiq's command must not be guessed from that.
    host = multiprocessing.get_context("spawn").Process(target=run)
    host.start()
    host.join(30)
    try:
        assert host.exitcode == STATUS
    finally:
        host.kill()
