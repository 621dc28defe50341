"""A quarter of a minute of what ``make soak`` does for half an hour: the script works, and the ledger balances."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from vitals import look_at

SOAK = Path(__file__).with_name("soak.py")


@pytest.mark.usefixtures("rabbitmq", "redis_server")  # so that both are installed; the script starts its own
def test_a_short_soak_balances() -> None:
    settings = {"SOAK_MINUTES": "0.25", "SOAK_FAULTS": "kill,close", "SOAK_SEED": "7"}
    run = subprocess.Popen(
        [sys.executable, str(SOAK)], env={**os.environ, **settings}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        output = run.communicate(timeout=110)[0].decode()
    finally:
        run.terminate()  # it ends what it has started
        run.wait(30)
    assert run.returncode == 0, output
    assert "SIGKILL" in output or "connections closed" in output, f"no fault has struck:\n{output}"
    assert "nothing grew, and the ledger balances" in output


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere ps(1) shows such a process without memory")
def test_a_killed_process_that_nobody_has_waited_for_counts_as_gone() -> None:
    with subprocess.Popen(["sleep", "60"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.kill()
        assert process.stdout.read() == b"", "it has closed its files, which it does after it has left its memory"
        with pytest.raises(ProcessLookupError):
            look_at(process.pid)
