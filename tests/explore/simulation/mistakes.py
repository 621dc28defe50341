"""Mistakes in the path, to show that the explorer finds them. Each is a generator around the right steps."""

import itertools
import math
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

from simulated_workers import TTL, Bend, Mistake, Process, Way

from jobkit.effects import Buried, Call, Claim, Completed, Effect, Pause, Record, Records, Released, Run, Seam, Steps
from jobkit.errors import JobkitError, StoreUnavailable
from jobkit.execution import Decision, Verdict
from jobkit.leases import HEAD_START
from jobkit.run.dispatcher import Delivery, Dispatcher, Withdrawn
from jobkit.run.recorder import End
from jobkit.store.base import Answer, Finished, Held, JobState, Lease

_numbers = itertools.count(1)

#: Yields in the place of an effect whatever it likes, and returns the answer to it.
Instead = Callable[[Way, Effect], Generator[Effect, Any, object]]


def _around(instead: Instead) -> Bend:
    def bend(way: Way, steps: Steps[Decision]) -> Steps[Decision]:
        answer: object = None
        error: BaseException | None = None
        while True:
            try:
                effect = steps.send(answer) if error is None else steps.throw(error)
            except StopIteration as end:
                decision: Decision = end.value
                return decision
            try:
                answer, error = (yield from instead(way, effect)), None
            except Exception as failure:  # for the step to hear
                error = failure

    return bend


def _is_publication(effect: Effect) -> bool:
    return isinstance(effect, Call) and effect.what in {"publish", "bury"}


def _ack(way: Way) -> None:
    """Settle the delivery at once, whatever comes after that."""
    assert way.connection is not None
    assert way.message is not None
    if way.message in way.connection.taken:
        way.process.world.broker.settle(way.connection, way.message, ack=True)
    way.connection = replace(way.connection, is_lost=True)  # so that it is not settled twice


def _ack_before_record(way: Way, effect: Effect) -> Generator[Effect, Any, object]:
    if isinstance(effect, Record) and isinstance(effect.end, Completed):
        _ack(way)
    return (yield effect)


def _ack_before_the_run(way: Way, effect: Effect) -> Generator[Effect, Any, object]:
    if isinstance(effect, Run):
        _ack(way)
    return (yield effect)


def _retry_after_the_ack(way: Way, effect: Effect) -> Generator[Effect, Any, object]:
    if _is_publication(effect):
        _ack(way)
    return (yield effect)


def _publish_failure_is_ignored(_way: Way, effect: Effect) -> Generator[Effect, Any, object]:
    try:
        return (yield effect)
    except JobkitError:
        if _is_publication(effect):
            return None
        raise


def _record_failure_is_ignored(_way: Way, effect: Effect) -> Generator[Effect, Any, object]:
    try:
        return (yield effect)
    except StoreUnavailable:
        if isinstance(effect, Record):
            return True
        raise


def _release_without_fence(way: Way, effect: Effect) -> Generator[Effect, Any, object]:
    if isinstance(effect, Record) and isinstance(effect.end, Released):
        row = way.process.world.store._row(effect.lease.job)
        if row is not None:
            effect = replace(effect, lease=replace(effect.lease, fence=row.record.fence, owner=row.owner))
    return (yield effect)


def _released_before_the_run(way: Way, effect: Effect) -> Generator[Effect, Any, object]:
    if isinstance(effect, Run) and way.execution.lease is not None:
        way.process.world.store.release(way.execution.lease, delay=Released().delay, counted=False)
    return (yield effect)


def _failure_is_not_counted(_way: Way, effect: Effect) -> Generator[Effect, Any, object]:
    if isinstance(effect, Record) and isinstance(effect.end, Released):
        effect = replace(effect, end=replace(effect.end, counted=False))
    if isinstance(effect, Claim):  # nor does the message say how many there were
        effect = replace(effect, attempts_before=0)
    return (yield effect)


def _outage_lets_the_job_run(way: Way, effect: Effect) -> Generator[Effect, Any, object]:
    try:
        return (yield effect)
    except StoreUnavailable:
        if isinstance(effect, Claim):
            return Lease(effect.job, effect.owner, 1, 1)
        raise


def _held_is_done(_way: Way, effect: Effect) -> Generator[Effect, Any, object]:
    answer = yield effect
    # The delivery is dropped: no copy comes back to see what has become of the owner.
    return _FINISHED if isinstance(answer, Held) else answer


def _dead_letter_is_only_recorded(_way: Way, effect: Effect) -> Generator[Effect, Any, object]:
    if isinstance(effect, Call) and effect.what == "bury":
        return None
    return (yield effect)


def _death_is_not_recorded(_way: Way, effect: Effect) -> Generator[Effect, Any, object]:
    if isinstance(effect, Record) and isinstance(effect.end, Buried):
        return True
    return (yield effect)


def _round_is_forgotten(_way: Way, effect: Effect) -> Generator[Effect, Any, object]:
    if isinstance(effect, Claim):
        effect = replace(effect, job_round=0)
    return (yield effect)


def _every_round_is_new(_way: Way, effect: Effect) -> Generator[Effect, Any, object]:
    if isinstance(effect, Claim) and effect.job_round:
        effect = replace(effect, job_round=effect.job_round + next(_numbers))
    return (yield effect)


def _record_before_publication(way: Way, steps: Steps[Decision]) -> Steps[Decision]:
    answer: object = None
    error: BaseException | None = None
    held_back: Effect | None = None
    while True:
        try:
            effect = steps.send(answer) if error is None else steps.throw(error)
        except StopIteration as end:
            decision: Decision = end.value
            return decision
        try:
            if _is_publication(effect) and way.execution.lease is not None:
                held_back, answer, error = effect, None, None
                continue
            answer, error = (yield effect), None
            if held_back is not None and isinstance(effect, Record):
                yield held_back
                held_back = None
        except Exception as failure:
            error = failure


def _turn_is_kept(process: Process) -> None:
    process.idempotency.end = lambda execution: None  # type: ignore[method-assign]


def _lease_is_never_forgotten(process: Process) -> None:
    process.keeper.forget = lambda lease: None  # type: ignore[method-assign]


def _lease_is_not_renewed(process: Process) -> None:
    process.keeper.keep = lambda lease, thread: None  # type: ignore[method-assign]


def _begun_before_it_begins(process: Process) -> None:
    keeper, dispatcher = process.keeper, process.dispatcher

    def deal(batch: Sequence[Delivery], answers: Sequence[Answer | JobkitError]) -> list[Withdrawn]:
        for answer in answers:
            if isinstance(answer, Lease) and answer not in keeper._cells:
                keeper.run_begins(answer)
        return Dispatcher.deal(dispatcher, batch, answers)

    dispatcher.deal = deal  # type: ignore[method-assign]


def _begins_unnoted(process: Process) -> None:
    process.keeper.run_begins = lambda lease: None  # type: ignore[method-assign]


def _old_name(process: Process) -> None:
    dispatcher = process.dispatcher

    def put_back(withdrawn: Sequence[Withdrawn]) -> None:
        for delivery, _ in withdrawn:
            dispatcher.put(delivery)

    dispatcher.put_back = put_back  # type: ignore[method-assign]


def _batch_is_forgotten(process: Process) -> None:
    dispatcher = process.dispatcher
    dispatcher.give_up = lambda batch: Dispatcher.give_up(dispatcher, batch[:1])  # type: ignore[method-assign]


def _group_is_taken_for_recorded(process: Process) -> None:
    def bad(ends: Sequence[End]) -> Steps[None]:
        with suppress(JobkitError):
            yield Records([end.way.effect for end in ends])  # type: ignore[misc]
        for end in ends:
            end.way.step(True)
            end.settle()

    process.commit = bad


def _redelivered_is_claimed_in_an_outage(process: Process) -> None:
    process.dispatcher.may_claim_ahead = lambda: True


def _no_head_start(process: Process) -> None:
    keeper, idempotency = process.keeper, process.idempotency

    def store_was_away() -> bool:
        return keeper._away_until == math.inf or keeper._clock() - keeper._answered_at > TTL

    def owners_first() -> Steps[None]:
        yield Call(Seam.STORE, "ping", process.reach.ping)

    keeper.store_was_away = store_was_away  # type: ignore[method-assign]
    idempotency._owners_first = owners_first  # type: ignore[method-assign]


def _silent_process_takes_more(process: Process) -> None:
    def owners_first() -> Steps[None]:
        yield Call(Seam.STORE, "ping", process.reach.ping)
        yield Pause(HEAD_START, process.stopping)

    process.idempotency._owners_first = owners_first  # type: ignore[method-assign]


def _stale_answer_is_acked(_way: Way, steps: Steps[Decision]) -> Steps[Decision]:
    decision = yield from steps
    return Decision(Verdict.COMPLETED) if decision.verdict is Verdict.HANDED_BACK else decision


_FINISHED: Final = Finished(JobState.DONE)

#: By what each of them does.
MISTAKES: Final[dict[str, Mistake]] = {
    "the ack comes before the record": Mistake(_around(_ack_before_record)),
    "the ack comes before the run": Mistake(_around(_ack_before_the_run)),
    "a retry is published after the ack": Mistake(_around(_retry_after_the_ack)),
    "a failure is recorded before its retry is published": Mistake(_record_before_publication),
    "a retry that was not confirmed is taken for published": Mistake(_around(_publish_failure_is_ignored)),
    "a record that was not written is taken for written": Mistake(_around(_record_failure_is_ignored)),
    "a lease is released without its fence": Mistake(_around(_release_without_fence)),
    "the lease is released before the run": Mistake(_around(_released_before_the_run)),
    "a failure uses up no attempt": Mistake(_around(_failure_is_not_counted)),
    "a job runs although the store is away": Mistake(_around(_outage_lets_the_job_run)),
    "a delivery whose job is held is dropped": Mistake(_around(_held_is_done)),
    "a dead letter is recorded and not published": Mistake(_around(_dead_letter_is_only_recorded)),
    "a death is not recorded": Mistake(_around(_death_is_not_recorded)),
    "a message that was sent again loses its round": Mistake(_around(_round_is_forgotten)),
    "a redelivery counts as sent again": Mistake(_around(_every_round_is_new)),
    "the turn of a last chance is not given back": Mistake(spoil=_turn_is_kept),
    "a lease is renewed for ever": Mistake(spoil=_lease_is_never_forgotten),
    "a lease is not renewed": Mistake(spoil=_lease_is_not_renewed),
    "a crash counts for a job that had not begun": Mistake(spoil=_begun_before_it_begins),
    "a job begins, and nobody can know": Mistake(spoil=_begins_unnoted),
    "what was claimed ahead asks again under its old name": Mistake(spoil=_old_name),
    "what was not claimed together is forgotten": Mistake(spoil=_batch_is_forgotten),
    "a group that was not recorded is taken for recorded": Mistake(spoil=_group_is_taken_for_recorded),
    "what is handed back is acked": Mistake(_stale_answer_is_acked),
    "what was delivered again is claimed in an outage": Mistake(spoil=_redelivered_is_claimed_in_an_outage),
    "owners have no head start after an outage": Mistake(spoil=_no_head_start),
    "a process that could not beat for a lease takes more": Mistake(spoil=_silent_process_takes_more),
}
