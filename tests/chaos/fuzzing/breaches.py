"""Payloads that break their contract: each field in turn, and all of them at length."""

from collections.abc import Iterator

from hostile import BAD_PAYLOAD, LEGAL, Draft, Edit, Kind, Target, envelope, text
from pydantic import ValidationError

from jobkit.contracts import Job
from jobkit.payload import read

#: Values that some field will not like.
JUNK: tuple[object, ...] = (
    *(None, True, -1, 1.5, float("nan"), float("inf"), 10**4000, "", "\x00", "\ud800", "x" * 5_000),
    *([], {}, [None], {"a": 1}, [[[]]] * 99),
)

#: Bytes of a payload that is still below the limit.
LARGE = 1_000_000


def breaches(target: Target) -> list[dict[str, object]]:
    """Payloads that the contract refuses: a field that is missing or holds what it must not."""
    contract, good = type(target.job), target.job.model_dump(mode="json")
    candidates = [{name: value for name, value in good.items() if name != left_out} for left_out in good]
    candidates += [{**good, name: junk} for name in good for junk in JUNK]
    candidates.append({})
    return [payload for payload in candidates if not _holds(contract, payload)]


def _holds(contract: type[Job], payload: dict[str, object]) -> bool:
    try:
        read(contract, payload)
    except ValidationError:
        return False
    return True


def kinds(target: Target) -> Iterator[Kind]:
    """The kinds for one contract."""
    for number, payload in enumerate(breaches(target)):
        yield Kind(f"payload {number} out of contract", BAD_PAYLOAD, envelope("kwargs", payload), rarity=5)
    yield Kind("a field's name with a surrogate", BAD_PAYLOAD, _field("\ud800\n\x00"))
    yield Kind("an unknown field whose name is 500 kB long", LEGAL, _field("x" * 500_000), rarity=100)
    yield Kind("an unknown field with a string of 1 MB", LEGAL, _field("x", "x" * LARGE), rarity=100)
    yield Kind("unknown fields without end", BAD_PAYLOAD, _fields(LARGE // 12), rarity=100)
    yield Kind("a field twice", BAD_PAYLOAD, text(lambda good: good.replace('"kwargs": {', '"kwargs": {"x": 1, ', 1)))
    if "inputs" in type(target.job).model_fields:
        rows = [[""] * 4000] * (LARGE // 16_000)
        wrong = {"model": "x", "inputs": rows}
        yield Kind("every number wrong", BAD_PAYLOAD, envelope("kwargs", wrong), rarity=100)


def _field(name: str, value: object = 1) -> Edit:
    def edit(d: Draft) -> None:
        payload = d.fields["kwargs"]
        assert isinstance(payload, dict)
        payload[name] = value

    return edit


def _fields(count: int) -> Edit:
    return envelope("kwargs", {f"{number:x}": 1 for number in range(count)})
