"""The words of a walk's story."""

from jobkit.effects import Buried, Call, Claim, Claims, Completed, Record, Records
from jobkit.store.base import Lease

#: What is asked of a seam.
Asked = Claim | Claims | Record | Records | Call


def name_of(effect: Asked) -> str:
    """What is asked."""
    match effect:
        case Claims(claims):
            return ", ".join(map(name_of, claims))
        case Records(records):
            return ", ".join(map(name_of, records))
        case Claim(job):
            return f"claims {job.id}"
        case Record(lease, end):
            kinds = {Completed: "done", Buried: "dead"}
            return f"records that {lease.job.id} is {kinds.get(type(end), 'free again')}"
        case Call(_, what):
            return what


def shown(answer: object, error: BaseException | None) -> str:
    """What is answered."""
    if error is not None:
        return f"{type(error).__name__}: {error}"
    if isinstance(answer, Lease):
        return f"a lease, attempt {answer.attempt}, {answer.crashes} crashes"
    if isinstance(answer, list):
        return ", ".join(shown(one, None) for one in answer)
    if isinstance(answer, bool):
        return "yes" if answer else "no, the lease is another's"
    return "done" if answer is None else type(answer).__name__.lower() + f" ({getattr(answer, 'state', '')})"
