"""The mark of a job that is done: what Redis keeps of it for as long as duplicates may come."""

import hashlib
import struct
import zlib
from typing import Final

from jobkit.store.base import JobKey, JobRecord, JobState, Lease

#: Fence, owner, send, round, end, run, attempt, crashes: 30 bytes, the most that Redis stores in 32.
_FIELDS: Final = ">6s3s6sH6sIHB"

#: A result begins with the lengths of step and note, which stand before it.
_LENGTHS: Final = struct.Struct(">II")

#: Larger sends and rounds are kept as these.
_LAST_SEND: Final = 2**48 - 1
_LAST_ROUND: Final = 2**16 - 1

#: Stands for the length of a run that nobody knows: its record was lost, and written again at its end.
_UNKNOWN: Final = 2**32 - 1


def digest(job: JobKey) -> bytes:
    """Return the name of a job's mark among those of its service.

    It has 112 bits. Among a billion jobs, two have the same one with a probability of 1e-16. To find an id with the
    digest of another takes 2^112 trials, so nobody can choose one to have somebody else's job taken for done.
    """
    return hashlib.blake2b(f"{job.actor}\0{job.id}".encode("utf-8", "surrogatepass"), digest_size=14).digest()


def stem(lease: Lease) -> bytes:
    """Return what the mark of a lease's job begins with: lease, send and round. ``finish.lua`` adds the rest."""
    sent_at, owner = lease.sent_at, zlib.crc32(lease.owner.encode())
    number = min(lease.round_of(sent_at), _LAST_ROUND) if lease.rounds else 0
    return (((lease.fence << 24 | owner & 0xFFFFFF) << 48 | min(max(sent_at, 0), _LAST_SEND)) << 16 | number).to_bytes(
        17
    )


def read_mark(job: JobKey, mark: bytes, result: bytes) -> JobRecord:
    """Return what a job's mark says of it, and the result beside it; empty if there is none."""
    fence, _check, _sent_at, number, finished, run, attempt, crashes = struct.unpack(_FIELDS, mark)
    finished_at = int.from_bytes(finished)
    lengths, said = result[: _LENGTHS.size], result[_LENGTHS.size :]
    step, note = _LENGTHS.unpack(lengths) if result else (0, 0)
    return JobRecord(
        job,
        JobState.DONE,
        attempt,
        crashes,
        int.from_bytes(fence),
        started_at=0 if run == _UNKNOWN else finished_at - run,
        finished_at=finished_at,
        percent=100.0,
        step=said[:step].decode("utf-8", "replace"),
        note=said[step : step + note].decode("utf-8", "replace"),
        result=said[step + note :],
        round=number,
    )
