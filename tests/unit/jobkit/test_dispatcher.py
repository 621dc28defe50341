"""What runs next, and what is claimed ahead: short jobs, a few, for a moment, and never what may do harm by waiting."""

import random
from statistics import median_high

import pytest
from claims_ahead import TTL, Desk, names
from hypothesis import example, given
from hypothesis import strategies as st

from jobkit.effects import Claims, Records
from jobkit.errors import JobkitError, RecordUnreadable, StoreUnavailable
from jobkit.run.dispatcher import (
    DEATH_PAUSE,
    DEATH_QUESTIONS,
    FEW,
    LONGEST_AHEAD,
    MOST_AHEAD,
    RUNS,
    SHORT,
    Delivery,
    Dispatcher,
)
from jobkit.store.base import Answer, Finished, Held, JobState, Lease

AWAY = StoreUnavailable("the store is away")


@pytest.fixture
def desk() -> Desk:
    return Desk()


# ---- the order


def test_what_is_more_urgent_comes_first_and_of_equals_what_came_first() -> None:
    desk = Desk(warm=False)
    for item, name in [(2, "late"), (1, "first"), (1, "second"), (0, "urgent"), (1, "third")]:
        desk.put(name, item=item)
    order = [name for _ in range(5) for name in names(desk.dispatcher.choose())]
    assert order == ["urgent", "first", "second", "third", "late"]
    assert desk.dispatcher.choose() == []


def test_what_is_claimed_ahead_runs_in_the_order_in_which_it_waited(desk: Desk) -> None:
    desk.put("c", "d", item=1)
    desk.put("a", "b", item=0)
    assert names(desk.claim()) == ["a", "b", "c", "d"]
    assert desk.takes() == ["a", "b", "c", "d"]


# ---- what is short


@pytest.mark.parametrize("runs", [0, RUNS - 1])
def test_an_actor_of_too_few_runs_is_not_known_to_be_short(runs: int) -> None:
    desk = Desk(warm=False)
    for _ in range(runs):
        desk.dispatcher.note_run("short", "work", 0.001)
    desk.put("a", "b")
    assert names(desk.claim()) == ["a"]
    assert desk.calls == [], "its thread claims it"


def test_an_actor_is_short_from_its_hundredth_run_on() -> None:
    desk = Desk(warm=False)
    desk.warm_up()
    desk.put("a", "b")
    assert names(desk.claim()) == ["a", "b"]
    (call,) = desk.calls
    assert isinstance(call, Claims)


@example(before=[], short=RUNS // 2, seed=0)
@example(before=[], short=RUNS // 2 + 1, seed=0)
@given(before=st.lists(st.booleans(), max_size=40), short=st.integers(0, RUNS), seed=st.integers(0, 1_000))
def test_the_median_of_the_last_hundred_runs_decides(before: list[bool], short: int, seed: int) -> None:
    limit = SHORT.total_seconds()
    last = [random.Random(seed + n).uniform(0, limit * 0.999) for n in range(short)]
    last += [random.Random(seed - n).choice([limit, 2 * limit, 60.0]) for n in range(RUNS - short)]
    random.Random(seed).shuffle(last)
    desk = Desk(warm=False)
    for was_short in before:  # which no longer count
        desk.dispatcher.note_run("short", "work", 0.0 if was_short else 60.0)
    for seconds in last:
        desk.dispatcher.note_run("short", "work", seconds)
    desk.put("a", "b")
    assert (len(desk.dispatcher.choose()) == 2) is (median_high(last) < limit)


def test_one_actor_says_nothing_about_another(desk: Desk) -> None:
    desk.put("a", "b", actor="other")
    assert names(desk.dispatcher.choose()) == ["a"]


# ---- never ahead


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"redelivered": True}, "its worker may have died of it"),
        ({"actor": "other"}, "nobody knows how long it takes"),
        ({"singly": True}, "it has a crash on its record"),
    ],
)
def test_what_may_do_harm_by_waiting_is_never_claimed_ahead(desk: Desk, more: dict[str, str | bool], why: str) -> None:
    desk.put("a", "b")
    desk.put("alone", **more)  # type: ignore[arg-type]  # of the names of its arguments
    desk.put("c", "d")
    assert names(desk.claim()) == ["a", "b"]
    assert desk.takes() == ["a", "b"]
    assert names(desk.dispatcher.choose()) == ["alone"], why
    assert names(desk.dispatcher.choose()) == ["c", "d"]


def test_nothing_is_claimed_ahead_in_an_outage(desk: Desk) -> None:
    desk.unwise = True
    desk.put("a", "b")
    assert (names(desk.claim()), names(desk.claim())) == (["a"], ["b"])
    assert desk.calls == []


def test_all_whose_claim_was_not_answered_know_that_they_may_have_a_lease(desk: Desk) -> None:
    deliveries = desk.put("a", "b", "c")
    desk.away = AWAY
    desk.claim()
    assert [one.execution.unheard for one in deliveries] == [True] * 3


def test_what_was_claimed_before_an_outage_runs_first(desk: Desk) -> None:
    desk.put(*(f"job-{number}" for number in range(2 * MOST_AHEAD)))
    desk.claim()
    desk.unwise = True
    assert len(desk.takes()) == MOST_AHEAD


def test_what_has_a_crash_on_its_record_is_released_unless_a_thread_waits_for_it(desk: Desk) -> None:
    for name in ("a", "b"):
        desk.lease(name)
    desk.now += TTL.total_seconds() + 1  # so that both count a crash
    desk.put("a", "b", "c")
    desk.claim()
    assert desk.takes() == ["a", "c"], "a thread is there for the first"
    assert isinstance(desk.calls[-1], Records)
    (batch,) = [desk.dispatcher.choose()]
    assert names(batch) == ["b"]
    assert not desk.dispatcher.needs_claim(batch), "its own thread claims it"
    lease = desk.store.acquire(batch[0].execution.job, batch[0].execution.owner, ttl=TTL, sent_at=1)
    assert isinstance(lease, Lease)
    assert lease.crashes == 1, "the release has counted nothing, and has forgotten nothing"


def test_at_most_sixteen_claims_wait(desk: Desk) -> None:
    desk.put(*(f"job-{number}" for number in range(3 * MOST_AHEAD)))
    assert len(desk.claim()) == MOST_AHEAD == 16
    assert len(desk.claim()) == 1, "whose thread claims it"
    for _ in range(5):
        desk.dispatcher.take()
    assert len(desk.claim()) == 5
    assert len(desk.dispatcher._ready) == MOST_AHEAD


def test_while_as_many_are_claimed_as_may_wait_no_thread_asks_for_one_alone(desk: Desk) -> None:
    desk.put(*(f"job-{number}" for number in range(5 * MOST_AHEAD)))
    first, second = desk.dispatcher.choose(), desk.dispatcher.choose()  # before any of them is answered
    assert (len(first), len(second)) == (MOST_AHEAD, 0)
    assert not desk.dispatcher.has_work, "a thread waits for the answer"
    desk.dispatcher.give_up(first)
    assert desk.dispatcher.has_work
    assert len(desk.dispatcher.choose()) == MOST_AHEAD - 1, "beside the one that waits for its thread"


def test_long_jobs_are_asked_for_whatever_else_is(desk: Desk) -> None:
    desk.put(*(f"job-{number}" for number in range(MOST_AHEAD)))
    assert len(desk.dispatcher.choose()) == MOST_AHEAD
    desk.dispatcher.put(desk.delivery("long", actor="long"))
    assert desk.dispatcher.has_work
    assert len(desk.dispatcher.choose()) == 1


def test_more_is_claimed_while_the_last_few_run(desk: Desk) -> None:
    desk.put(*(f"job-{number}" for number in range(2 * MOST_AHEAD)))
    desk.claim()
    for _ in range(MOST_AHEAD - FEW):
        assert desk.dispatcher.take() is not None
    assert desk.dispatcher.take() is None, "this thread claims"
    assert len(desk.dispatcher.choose()) == MOST_AHEAD - FEW
    assert desk.dispatcher.take() is not None, "others run what is left meanwhile"


@pytest.mark.parametrize(
    ("runs", "quick"), [([0.049] * RUNS, True), ([0.0] * (RUNS - 1), False), ([0.0] * 99 + [0.05], False)]
)
def test_a_queue_is_quick_if_each_of_its_last_jobs_was_short(desk: Desk, runs: list[float], quick: bool) -> None:
    for seconds in [60.0, *runs] if quick else runs:
        desk.dispatcher.note_run("short", "mail", seconds)
    assert desk.dispatcher.is_quick("mail") is quick
    assert not desk.dispatcher.is_quick("other")


def test_a_batch_of_one_is_claimed_by_its_own_thread(desk: Desk) -> None:
    desk.put("a")
    desk.claim()
    assert desk.calls == []


def test_all_but_the_first_of_a_batch_are_claimed_ahead_of_a_thread(desk: Desk) -> None:
    desk.put("a", "b", "c")
    desk.claim()
    (asked,) = desk.calls
    assert isinstance(asked, Claims)
    assert [claim.ahead for claim in asked.claims] == [False, True, True]


def test_what_was_delivered_before_is_never_claimed_ahead(desk: Desk) -> None:
    """Not even when it is asked for again, together with others, while no thread waits for it."""
    for name in ("a", "b"):
        desk.lease(name)
        desk.put(name, redelivered=True)
        desk.claim()
    desk.now += DEATH_PAUSE
    desk.tidy()
    together = desk.calls[-1]
    assert isinstance(together, Claims)
    assert [claim.ahead for claim in together.claims] == [False, False]


# ---- what has waited for too long


def test_a_claim_that_finds_no_thread_in_time_is_released_as_if_it_had_never_been(desk: Desk) -> None:
    first, second = desk.put("a", "b")
    desk.claim()
    desk.now += LONGEST_AHEAD * 0.9
    desk.tidy()
    assert names(list(desk.dispatcher._ready)) == ["a", "b"], "not yet"
    owners = [first.execution.owner, second.execution.owner]
    desk.now += LONGEST_AHEAD * 0.2
    desk.tidy()
    assert (desk.takes(), len(desk.dispatcher)) == ([], 2)
    assert [d.execution.instead_of for d in (first, second)] == owners
    assert first.execution.owner not in owners
    assert second.execution.owner not in owners
    assert [d.execution.answer for d in (first, second)] == [None, None]
    elsewhere = desk.lease("a")
    assert (elsewhere.attempt, elsewhere.crashes) == (1, 0)


def test_a_release_that_is_late_does_not_end_the_lease_that_came_after_it(desk: Desk) -> None:
    first, _ = desk.put("a", "b")
    desk.claim()
    old = first.execution.answer
    assert isinstance(old, Lease)
    desk.now += LONGEST_AHEAD
    desk.away = AWAY  # Redis will run the release later than its answer was waited for
    desk.tidy()
    desk.away = None
    desk.claim()
    new = first.execution.answer
    assert isinstance(new, Lease)
    assert (new.attempt, new.crashes) == (1, 0)
    assert desk.store.release(old, delay=TTL, counted=False) is False
    assert desk.store.complete(new, b"")


def test_an_answer_that_is_no_lease_is_asked_for_again_without_a_release(desk: Desk) -> None:
    first, _ = desk.put("a", "b")
    desk.deal(Finished(JobState.DONE), Finished(JobState.DONE))
    owner = first.execution.owner
    desk.now += LONGEST_AHEAD
    desk.tidy()
    assert desk.calls == []
    assert (first.execution.owner, first.execution.answer) == (owner, None)
    assert names(desk.dispatcher.choose()) == ["a", "b"]


def test_a_process_that_was_frozen_hands_out_nothing_that_it_has_claimed_before(desk: Desk) -> None:
    desk.put("a", "b", "c")
    desk.claim()
    desk.now += 0.99
    first = desk.dispatcher.take()
    assert first is not None, "late, as its thread had no time to release it, but fresh enough"
    desk.now += 60
    assert desk.dispatcher.take() is None
    assert not desk.dispatcher.has_work, "threads do not spin meanwhile"
    assert desk.dispatcher.has_to_tidy
    desk.tidy()
    assert desk.dispatcher.has_work
    assert names(desk.claim()) == ["b", "c"]
    assert desk.takes() == ["b", "c"]


# ---- whose worker may just have died


def test_a_redelivery_whose_job_is_held_is_asked_for_again_every_100_ms_up_to_ten_times(desk: Desk) -> None:
    desk.lease("a")
    desk.put("a", redelivered=True)
    desk.claim()
    for question in range(DEATH_QUESTIONS):
        assert len(desk.calls) == 1 + question
        assert (desk.takes(), desk.dispatcher.has_work) == ([], False), "no thread waits with it"
        desk.now += DEATH_PAUSE * 0.9
        desk.tidy()
        assert len(desk.calls) == 1 + question, "too early"
        desk.now += DEATH_PAUSE * 0.2
        desk.tidy()
    assert len(desk.calls) == 1 + DEATH_QUESTIONS
    assert desk.takes() == ["a"], "its thread defers it, or waits"


def test_all_such_questions_are_asked_in_one_call_and_the_first_free_job_runs(desk: Desk) -> None:
    held = [desk.lease(name) for name in ("a", "b", "c")]
    desk.put("a", "b", "c", redelivered=True)
    for _ in range(3):
        desk.claim()
    desk.calls.clear()
    desk.release(held[1])
    desk.now += DEATH_PAUSE
    desk.tidy()
    (call,) = desk.calls
    assert isinstance(call, Claims)
    assert [one.job.id for one in call.claims] == ["a", "b", "c"]
    assert desk.takes() == ["b"]
    assert names(desk.dispatcher._held) == ["a", "c"]


@pytest.mark.parametrize(
    ("redelivered", "runs_here", "state"),
    [(True, True, JobState.RUNNING), (True, False, JobState.WAITING), (False, False, JobState.RUNNING)],
)
def test_a_job_that_is_held_for_another_reason_is_not_asked_for_again(
    desk: Desk, redelivered: bool, runs_here: bool, state: JobState
) -> None:
    first, *_ = desk.put("a", redelivered=redelivered) if redelivered else desk.put("a", "b")
    if runs_here:
        desk.runs.add(first.execution.job)
    desk.deal(*[Held(TTL, state)] * (1 if redelivered else 2))
    assert desk.takes()[0] == "a"
    assert desk.dispatcher.due() == []


def test_a_redelivery_is_not_asked_for_before_the_owners_that_an_outage_has_cut_off(desk: Desk) -> None:
    desk.put("a", redelivered=True)
    desk.unwise = True  # the store is away, or came back just now: its owner may live, and renews its lease first
    assert names(desk.claim()) == ["a"]
    assert desk.calls == [], "its thread asks, once that time is over"


def test_a_held_job_is_not_asked_for_before_the_owners_that_an_outage_has_cut_off(desk: Desk) -> None:
    desk.lease("a")
    desk.put("a", redelivered=True)
    desk.claim()
    desk.calls.clear()
    desk.unwise = True
    desk.now += 5 * DEATH_PAUSE
    desk.tidy()
    assert desk.calls == []
    desk.unwise = False
    desk.tidy()
    assert len(desk.calls) == 1, "none of its questions is used up"


# ---- what goes wrong


def test_an_error_of_one_record_goes_to_its_own_thread_and_harms_no_other(desk: Desk) -> None:
    desk.put("a", "b", "c")
    leases = [desk.lease(name, f"here:{number}") for number, name in enumerate(("a", "b", "c"), 1)]
    bad = desk.deal(leases[0], RecordUnreadable("no record"), leases[2])[1]
    assert desk.takes() == ["a", "b", "c"]
    assert (bad.singly, bad.execution.answer) == (True, None), "its thread asks, and meets the error itself"


@pytest.mark.parametrize("error", [AWAY, RuntimeError("a mistake"), KeyboardInterrupt()])
def test_claims_that_are_not_answered_lose_nothing(desk: Desk, error: BaseException) -> None:
    desk.put("a", "b", "c")
    desk.away = error
    desk.claim()
    assert desk.takes() == ["a"], "its thread waits for the store"
    assert names(desk.dispatcher.choose()) == ["b", "c"]


@pytest.mark.parametrize("error", [AWAY, RuntimeError("a mistake")])
def test_a_release_that_is_not_answered_loses_nothing_and_ends_no_thread(desk: Desk, error: Exception) -> None:
    desk.put("a", "b")
    desk.claim()
    desk.now += LONGEST_AHEAD
    desk.away = error
    desk.tidy()  # in a thread that looks after it, or in a worker thread
    assert names(desk.dispatcher.choose()) == ["a", "b"]


def test_what_a_thread_asked_for_in_vain_is_for_that_thread_whatever_waits_beside_it(desk: Desk) -> None:
    desk.put("a", "b")
    desk.claim()
    desk.put("c", "d")
    desk.away = AWAY
    desk.claim()
    assert desk.takes() == ["c", "a", "b"]


# ---- each exactly once

_ANSWERS = st.sampled_from(["lease", "crashed", "held", "finished", "error", "away"])
_STEPS = st.one_of(
    st.tuples(st.just("put"), st.booleans()),
    st.tuples(st.just("choose"), st.lists(_ANSWERS, min_size=1, max_size=20)),
    st.tuples(st.just("take"), st.none()),
    st.tuples(st.just("wait"), st.sampled_from([0.01, 0.1, 2.0])),
    st.tuples(st.just("overdue"), st.booleans()),
    st.tuples(st.just("due"), st.lists(_ANSWERS, min_size=1, max_size=20)),
)


class Game:
    """Does to a dispatcher whatever may be done to one, and writes down who has each delivery."""

    def __init__(self) -> None:
        self.desk = Desk()
        self.dispatcher: Dispatcher = self.desk.dispatcher
        self.put: list[Delivery] = []
        self.taken: list[Delivery] = []

    def step(self, what: str, how: object) -> None:
        match what, how:
            case "put", bool(redelivered):
                self.put += self.desk.put(f"job-{len(self.put)}", redelivered=redelivered)
            case "take", _:
                one = self.dispatcher.take()
                self.taken += [one] if one is not None else []
            case "wait", float(seconds):
                self.desk.now += seconds
            case "overdue", _:
                self.dispatcher.put_back(self.dispatcher.overdue())
            case "choose", list(answers):
                batch = self.dispatcher.choose()
                if batch and not self.dispatcher.needs_claim(batch):
                    self.taken += batch
                elif batch:
                    self._answer(batch, answers)
            case "due", list(answers):
                batch = self.dispatcher.due()
                if batch:
                    self._answer(batch, answers)

    def _answer(self, batch: list[Delivery], answers: list[str]) -> None:
        if "away" in answers:
            self.dispatcher.give_up(batch)
            return
        told = [self._made(one, answers[number % len(answers)]) for number, one in enumerate(batch)]
        self.dispatcher.put_back(self.dispatcher.deal(batch, told))

    @staticmethod
    def _made(delivery: Delivery, answer: str) -> Answer | JobkitError:
        job, owner = delivery.execution.job, delivery.execution.owner
        made: dict[str, Answer | JobkitError] = {
            "lease": Lease(job, owner, 1, 1),
            "crashed": Lease(job, owner, 1, 1, crashes=1),
            "held": Held(TTL, JobState.RUNNING),
            "finished": Finished(JobState.DONE),
            "error": RecordUnreadable("no record"),
        }
        return made[answer]


@given(st.lists(_STEPS, max_size=60))
def test_whatever_happens_each_delivery_is_handed_out_or_drained_exactly_once(steps: list[tuple[str, object]]) -> None:
    game = Game()
    for what, how in steps:
        game.step(what, how)
        assert len(game.dispatcher) == len(game.put) - len(game.taken)
    leases = [one.execution.answer for one in game.dispatcher._ready]
    drained, withdrawn = game.dispatcher.drain()
    assert [lease for _, lease in withdrawn] == [lease for lease in leases if isinstance(lease, Lease)]
    everything = game.taken + drained + [one for one, _ in withdrawn]
    assert sorted(map(id, everything)) == sorted(map(id, game.put))
    assert (len(game.dispatcher), game.dispatcher.drain()) == (0, ([], []))
