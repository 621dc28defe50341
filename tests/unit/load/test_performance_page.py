"""The page of performance shows the benchmark's figures, each in its place, and no others."""

import math
from pathlib import Path

import pytest
from aims import aims
from costs import SHIPPED, VARIANTS
from peers import SYSTEMS, rotated
from performance_page import page
from rendered import number, ratios
from results import Bulk, Delayed, Drain, Full, Machine, Results, Round, Short, Sizes

MACHINE = Machine(
    day="2026-01-02", processor="Abacus", cores=2, memory_gb=4, system="Unix", versions={"RabbitMQ": "9.8.7"}
)
SIZES = Sizes(rounds=3, backlog=4321, waiting=321, heavy=654, sends=111, paced=222, costs=987, cost_rounds=1, mails=345)


def drain(rate: float, worker_ms: float = 0.2) -> Drain:
    return Drain(per_second=rate, worker_ms=worker_ms, broker_ms=0.05, store_ms=0.03, fullness=0.97, others=0.04)


def rounds(*rates: float) -> list[Round]:
    """Rounds in which everything grows with the rate."""
    return [
        Round(
            sends=rate / 2,
            bulk=rate * 3,
            empty=drain(rate, 1000 / rate),
            waiting=drain(rate / 4),
            heavy=drain(rate / 5),
            memory_mb=rate / 50,
            p50_ms=rate / 1000,
            p99_ms=rate / 500,
        )
        for rate in rates
    ]


@pytest.fixture
def results() -> Results:
    """Figures that differ from each other."""
    systems = {system.name: rounds(2000 * n, 2010 * n, 2500 * n) for n, system in enumerate(SYSTEMS, 1)}
    short = Short(
        machine=MACHINE,
        sizes=SIZES,
        systems=systems,
        costs={variant.name: [drain(1000 + 100 * n)] for n, variant in enumerate(VARIANTS)},
        mails={"50": [432.1], "1": [123.4]},
    )
    full = Full(
        machine=MACHINE.model_copy(update={"day": "2026-02-03"}),
        backlogs={system.name: {10: drain(10 * n), 100: drain(100 * n)} for n, system in enumerate(SYSTEMS, 1)},
        pairs=[(drain(1000, 0.2), drain(990, 0.21)), (drain(1001, 0.2), drain(800, 0.3))],
        pair_sizes=(10, 1000),
        store_bytes=119,
        bulk=Bulk(count=1000, per_second=24680, peak_mb=151),
        delayed={system.name: Delayed(count=100, before_mb=40, after_mb=41 + n) for n, system in enumerate(SYSTEMS)},
    )
    return Results(short=short, full=full)


def cells(text: str, heading: str, first: str) -> list[str]:
    """The line of a table under a heading, by its first cell."""
    section = text.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    [line] = [line for line in section.splitlines() if line.startswith(f"| {first} |")]
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_a_cell_is_the_median_with_the_least_and_the_most(results: Results) -> None:
    text = page(results)
    drains = [  # the figures, and the ratios
        line for line in text.splitlines() if line.startswith("| drain, jobs that do nothing, jobs/s |")
    ]
    assert drains[0].split(" | ")[1:3] == ["2,010 (2,000 to 2,500)", "4,020 (4,000 to 5,000)"]
    assert drains[1].split(" | ")[1:3] == ["0.50 (0.50 to 0.50)", "0.33 (0.33 to 0.33)"]
    assert cells(text, "What each guarantee costs", VARIANTS[3].name) == ["1,300", "1.30", "0.20", "1.00"]
    assert cells(text, "What each guarantee costs", SHIPPED) == ["1,000", "1.00", "0.20", "1.00"]
    assert cells(text, "E-mails", "50") == ["432"]


def test_the_page_says_how_full_the_cores_were_and_whose_work_that_was(results: Results) -> None:
    text = page(results)
    assert cells(text, "Beside its peers", "cores busy, %")[0].startswith("97.0")
    assert cells(text, "Beside its peers", "cores busy with other processes, %")[0].startswith("4.00")


@pytest.mark.parametrize(("others", "warned"), [(0.04, False), (0.15, False), (0.16, True)])
def test_the_page_warns_of_figures_from_a_machine_that_was_not_idle(
    results: Results, others: float, warned: bool
) -> None:
    assert results.short is not None
    rounds = results.short.systems["celery"]
    rounds[1] = rounds[1].model_copy(update={"empty": rounds[1].empty.model_copy(update={"others": others})})
    assert ("**The machine was not idle.** Other processes used up to 16 % of its cores" in page(results)) == warned


def test_each_part_has_its_machine_and_its_sizes(results: Results) -> None:
    text = page(results)
    assert cells(text, "Machine and versions", "day") == ["2026-01-02", "2026-02-03"]
    assert cells(text, "Machine and versions", "processor") == ["Abacus, 2 cores"] * 2
    assert cells(text, "Machine and versions", "versions") == ["RabbitMQ 9.8.7"] * 2
    for size in ("3 rounds", "4,321", "321", "654", "111", "222", "987", "345"):
        assert size in text
    assert "`send_many` of 1,000 jobs sends 24,680 jobs/s (median of 2 runs)" in text
    assert cells(text, "Large backlogs", SYSTEMS[1].title) == ["20.0", "0.20", "200", "0.20"]
    assert cells(text, "Delayed jobs", SYSTEMS[1].title) == ["100", "40.0", "42.0"]


def test_a_part_that_has_not_run_is_not_on_the_page(results: Results) -> None:
    assert "FULL=1` |" not in page(Results(short=results.short))
    assert "Large backlogs" not in page(Results(short=results.short))
    assert "Beside its peers" not in page(Results(full=results.full))


def test_an_aim_is_met_at_its_bound_and_missed_beyond_it(results: Results) -> None:
    met = {line.split(" | ")[0][2:]: line.split(" | ")[1:] for line in aims(results).splitlines()[2:]}
    assert met["drain, required: ÷ Dramatiq, quorum queues"] == ["at least 0.7", "0.50", "no |"]
    assert met["latency, p50 ÷ Dramatiq, quorum queues"] == ["at most 1.25", "0.50", "yes |"]
    assert met["change of the CPU per job from a backlog of 10 to 1,000, %"] == ["at most 10", "27.5", "no |"]
    assert met["memory of `send_many` of 1,000 jobs, MB"] == ["at most 150", "151", "no |"]
    assert met["memory of Redis per done job, bytes"] == ["at most 120", "119", "yes |"]
    assert met["growth of the workers' memory by 100 delayed jobs, %"] == ["at most 5", "2.50", "yes |"]


def test_figures_survive_being_kept(results: Results, tmp_path: Path) -> None:
    file = tmp_path / "kept.json"
    assert Results.read(file) == Results()
    results.write(file)
    assert Results.read(file) == results


def test_numbers_have_three_digits() -> None:
    assert [number(n) for n in (0.123456, 1.0, 12.34, 123.4, 20_912.3, math.nan)] == [
        *("0.12", "1.00", "12.3", "123", "20,912", "-")
    ]


def test_a_peer_whose_figure_is_nothing_has_no_ratio() -> None:
    first, second = ratios([1, 1], [2, 0])
    assert first == 0.5
    assert math.isnan(second)


def test_each_round_begins_with_another_system_and_has_all() -> None:
    orders = [[system.name for system in rotated(number)] for number in range(len(SYSTEMS))]
    names = sorted(system.name for system in SYSTEMS)
    assert sorted(order[0] for order in orders) == names
    assert all(sorted(order) == names for order in orders)
