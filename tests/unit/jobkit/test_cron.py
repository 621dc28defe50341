"""Our cron against an independent one, minute by minute over years, and where clocks change."""

import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice, takewhile
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import pytest
from cronsim import CronSim
from hypothesis import given, settings
from hypothesis import strategies as st

from jobkit.schedule.cron import Cron, cron

START = datetime(2023, 12, 30, tzinfo=UTC)
END = datetime(2027, 1, 5, tzinfo=UTC)  # three years with a leap day, all begun on another day of the week

SPARSE = [
    "0 0 * * 0",
    "0 0 * * 7",
    "0 0 * * sun",
    "0 0 * * SUN",
    "30 12 * * mon",
    "30 12 * * mon-fri",
    "30 12 * * sun-fri",
    "30 12 * * 1-7",
    "30 12 * * 0-7",
    "30 12 * * 5-7",
    "30 12 * * sat,sun",
    "30 12 * * mon,wed-fri",
    "30 12 * * */2",
    "30 12 * * */3",
    "30 12 * * */7",
    "30 12 * * 1/2",
    "30 12 * * 2-6/2",
    "15 6 1 * *",
    "15 6 31 * *",
    "15 6 1,15 * *",
    "15 6 */2 * *",
    "15 6 5/10 * *",
    "15 6 1-7 * mon",
    "15 6 13 * fri",
    "15 6 */2 * mon",
    "15 6 13 * */2",
    "15 6 */2 * */2",
    "15 6 1-31 * mon",
    "15 6 13 * 0-6",
    "15 6 13 * 0-7",
    "0 0 1 1 *",
    "0 0 29 2 *",
    "0 0 29 feb mon",
    "0 0 1 jan,JUL *",
    "0 0 1 mar-may *",
    "0 0 1 */5 *",
    "0 0 1 2/5 *",
    "0 0 31 4,5,6 *",
    "5/15 8 * * *",
    "0 */5 * * *",
    "7 3/8 * * *",
    "10-50/20 9-17/4 1-10 * *",
    "0,59 0,23 * * *",
    "0 0-23 * * mon",
    "0 0-23/2 1-7,20 3-11/3 tue,thu",
]
DENSE = [
    "17 * * * *",
    "*/15 8-18 * * mon-fri",
    "* * * * *",
    "*/5 * * * *",
    "*/7 * * * *",
    "5/15 * * * *",
    "1-59/2 * * * *",
    "*/25 */7 * * *",
    "* 2 * * *",
]
MACROS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
CHANGING = [
    "30 2 * * *",
    "0 3 * * *",
    "15,45 1-3 * * *",
    "30 0-23 * * *",
    "0 0 * * *",
    "*/15 * * * *",
    "*/20 2 * * *",
    "30 */2 * * *",
]
#: Zones, with the days of 2026 on which their clocks change. Lord Howe's change by half an hour, Havana's at midnight.
CHANGES = {
    "Europe/Berlin": [(3, 29), (10, 25)],
    "America/New_York": [(3, 8), (11, 1)],
    "America/Havana": [(3, 8), (11, 1)],
    "Asia/Beirut": [(3, 29), (10, 25)],
    "Australia/Lord_Howe": [(4, 5), (10, 4)],
}
AROUND = [(zone, datetime(2026, *day, tzinfo=UTC)) for zone, days in CHANGES.items() for day in days]


def ours(spec: str, zone: str = "UTC", start: datetime = START, end: datetime = END) -> list[datetime]:
    return list(takewhile(lambda tick: tick < end, cron(spec, zone).ticks_after(start)))


def theirs(spec: str, zone: str = "UTC", start: datetime = START, end: datetime = END) -> list[datetime]:
    local = start if zone == "UTC" else start.astimezone(ZoneInfo(zone))
    ticks: Iterator[datetime] = CronSim(spec, local)
    return list(takewhile(lambda tick: tick < end, (tick.astimezone(UTC) for tick in ticks)))


@pytest.mark.parametrize("spec", SPARSE)
def test_every_tick_of_three_years_is_where_an_independent_cron_has_it(spec: str) -> None:
    assert ours(spec) == theirs(spec)


@pytest.mark.parametrize("spec", DENSE)
def test_every_tick_of_a_dense_schedule_is_where_an_independent_cron_has_it(spec: str) -> None:
    end = START + timedelta(days=21)
    assert ours(spec, end=end) == theirs(spec, end=end)


@pytest.mark.parametrize(("macro", "spec"), MACROS.items())
def test_a_macro_ticks_like_the_expression_that_it_stands_for(macro: str, spec: str) -> None:
    end = START + timedelta(days=400)
    assert ours(macro, end=end) == theirs(spec, end=end) != []


@pytest.mark.parametrize(("zone", "day"), AROUND)
@pytest.mark.parametrize("spec", CHANGING)
def test_clock_changes_are_met_as_debian_s_cron_meets_them(spec: str, zone: str, day: datetime) -> None:
    start, end = day - timedelta(days=1, minutes=-1), day + timedelta(days=2)
    if zone == "Australia/Lord_Howe" and "*" in spec[:4]:  # the other cron steps by whole hours and loses half of one
        instants = [start + timedelta(minutes=n) for n in range(1, int((end - start) / timedelta(minutes=1)))]
        expected = [one for one in instants if cron(spec).matches(one.astimezone(ZoneInfo(zone)))]
    else:
        expected = theirs(spec, zone, start, end)
    assert ours(spec, zone, start, end) == expected


def test_fri_sun_is_friday_to_sunday() -> None:
    assert ours("30 12 * * fri-sun") == theirs("30 12 * * 5-7")
    assert ours("30 12 * * mon-sun") == theirs("30 12 * * *")
    assert ours("30 12 * * sun-sun") == theirs("30 12 * * 0")
    assert ours("30 12 * * sun-sat") == theirs("30 12 * * *")


def test_a_skipped_hour_fires_once_right_after_the_gap() -> None:
    # On 29 March 2026 at 1:00 UTC the clocks of Berlin go from 2:00 to 3:00.
    ticks = ours("0,20,40 2 * * *", "Europe/Berlin", datetime(2026, 3, 28, 12, tzinfo=UTC))
    assert ticks[0] == datetime(2026, 3, 29, 1, 0, tzinfo=UTC)
    assert ticks[1] == datetime(2026, 3, 30, 0, 0, tzinfo=UTC)


def test_a_repeated_hour_fires_once_the_first_time() -> None:
    # On 1 November 2026 at 6:00 UTC the clocks of New York go from 2:00 back to 1:00.
    ticks = ours("30 1 * * *", "America/New_York", datetime(2026, 10, 31, 12, tzinfo=UTC))
    assert ticks[0] == datetime(2026, 11, 1, 5, 30, tzinfo=UTC)
    assert ticks[1] == datetime(2026, 11, 2, 6, 30, tzinfo=UTC)


def test_what_runs_every_hour_does_so_through_both_changes() -> None:
    for start in (datetime(2026, 3, 28, 12, tzinfo=UTC), datetime(2026, 10, 24, 12, tzinfo=UTC)):
        ticks = list(islice(cron("0 * * * *", "Europe/Berlin").ticks_after(start), 30))
        assert ticks == [start + timedelta(hours=n + 1) for n in range(30)]


def test_a_day_that_a_zone_left_out_fires_at_the_start_of_the_next() -> None:
    # Samoa went from 29 to 31 December 2011, at 10:00 UTC.
    ticks = ours("0 12 30 12 *", "Pacific/Apia", datetime(2011, 12, 1, tzinfo=UTC))
    assert ticks[0] == datetime(2011, 12, 30, 10, tzinfo=UTC)


@given(
    st.sampled_from([*SPARSE, *CHANGING]),
    st.sampled_from(["UTC", *CHANGES]),
    st.datetimes(datetime(2024, 1, 1), datetime(2030, 1, 1)),  # noqa: DTZ001  made aware below
)
@settings(max_examples=60, deadline=None)
def test_the_next_tick_matches_and_none_is_passed_over(spec: str, zone: str, naive: datetime) -> None:
    schedule, moment = cron(spec, zone), naive.replace(tzinfo=UTC)
    tick = schedule.next_after(moment)
    assert tick is not None
    assert tick > moment
    assert tick.second == tick.microsecond == 0
    assert schedule.next_after(tick - timedelta(microseconds=1)) == tick
    assert schedule.next_after(moment + (tick - moment) / 2) == tick


@given(st.datetimes(datetime(2024, 1, 1), datetime(2026, 1, 1)), st.sampled_from(SPARSE))  # noqa: DTZ001  made aware
def test_in_utc_a_minute_matches_exactly_if_it_is_a_tick(naive: datetime, spec: str) -> None:
    minute = naive.replace(second=0, microsecond=0)
    schedule = cron(spec)
    is_tick = schedule.next_after(minute.replace(tzinfo=UTC) - timedelta(minutes=1)) == minute.replace(tzinfo=UTC)
    assert schedule.matches(minute) is is_tick


@pytest.mark.parametrize("spec", ["0 0 29 2 *", "0 0 29 2 mon"])
def test_a_rare_schedule_is_looked_up_at_once(spec: str) -> None:
    schedule = cron(spec, "Europe/Berlin")
    after = datetime(2096, 3, 1, tzinfo=UTC)  # 2100 is no leap year: the next 29 February is eight years away
    durations = []
    for _ in range(3):
        begun = time.process_time()
        found = schedule.next_after(after)
        durations.append(time.process_time() - begun)
    assert min(durations) < 0.05
    assert found is not None


def test_an_expression_that_never_ticks_is_refused() -> None:
    with pytest.raises(ValueError, match="never ticks"):
        cron("0 0 30 2 *")


def test_a_moment_in_any_zone_gives_the_same_tick_in_utc() -> None:
    moment = datetime(2026, 6, 1, 12, 30, 15, tzinfo=ZoneInfo("Asia/Kolkata"))
    tick = cron("0 6 * * *", "Europe/Berlin").next_after(moment)
    assert tick == datetime(2026, 6, 2, 4, tzinfo=UTC)
    assert tick.tzinfo is UTC


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("", "five fields"),
        ("* * * *", "five fields"),
        ("* * * * * *", "five fields"),
        ("@fortnightly", "five fields"),
        ("60 * * * *", "'60' is no minute"),
        ("* 24 * * *", "'24' is no hour"),
        ("* * 0 * *", "'0' is no day of month"),
        ("* * 32 * *", "'32' is no day of month"),
        ("* * * 13 *", "'13' is no month"),
        ("* * * 0 *", "'0' is no month"),
        ("* * * * 8", "'8' is no day of week"),
        ("* * * mon *", "'mon' is no month"),
        ("* * * * jan", "'jan' is no day of week"),
        ("* * * * monday", "'monday' is no day of week"),
        ("x * * * *", "'x' is no minute"),
        ("-1 * * * *", "'-1' is no minute"),
        ("1,,2 * * * *", "'' is no minute"),
        ("1- * * * *", "'1-' is no minute"),
        ("*-5 * * * *", "'*-5' is no minute"),
        ("1.5 * * * *", "'1.5' is no minute"),
        ("\u0663 * * * *", "'\u0663' is no minute"),
        ("9" * 5000 + " * * * *", "is no minute"),
        ("*/0 * * * *", "'*/0'"),
        ("*/ * * * *", "'*/' is no minute"),
        ("*/-2 * * * *", "'*/-2' is no minute"),
        ("50-10 * * * *", "'50-10'"),
        ("* * * * fri-mon", "'fri-mon'"),
        ("* * L * *", "'l' is no day of month"),
        ("* * * * 5#2", "'5#2' is no day of week"),
    ],
)
def test_a_wrong_expression_is_refused_with_the_item_that_is_wrong(spec: str, says: str) -> None:
    with pytest.raises(ValueError, match=r"^cron ") as refusal:
        cron(spec)
    assert says in str(refusal.value)


@pytest.mark.parametrize("zone", ["", "../etc/passwd", "/etc/passwd", "a\0b", "Europe/", "Europe Berlin"])
def test_what_cannot_name_a_time_zone_is_refused_where_it_is_written(zone: str) -> None:
    with pytest.raises(ValueError, match="time zone") as refusal:
        cron("0 0 * * *", zone)
    assert repr(zone) in str(refusal.value)


@pytest.mark.parametrize("zone", ["Europe/Atlantis", "Europe"])
def test_an_unknown_time_zone_is_refused_by_its_name_when_it_is_first_used(zone: str) -> None:
    written = cron("0 0 * * *", zone)
    with pytest.raises(ValueError, match="time zone") as refusal:
        written.next_after(START)
    assert repr(zone) in str(refusal.value)


def test_writing_a_schedule_reads_no_file() -> None:
    code = (
        "import sys\n"
        "import periodiq\n"  # the first schedule imports it
        "from jobkit.schedule import cron\n"
        "opened = []\n"
        "sys.addaudithook(lambda event, arguments: opened.append(arguments) if event == 'open' else None)\n"
        "cron('0 3 * * *', 'Europe/Berlin'), cron('@daily')\n"
        "print(opened)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_utc_needs_no_database_of_time_zones(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(name: str) -> ZoneInfo:
        raise ZoneInfoNotFoundError(name)

    monkeypatch.setattr(sys.modules["jobkit.schedule.cron"], "ZoneInfo", none)
    assert cron("0 0 * * *").next_after(START) == START + timedelta(days=1)
    with pytest.raises(ValueError, match="install the time zones"):
        cron("0 0 * * *", "Europe/Berlin").next_after(START)


@pytest.mark.parametrize("limit", [timedelta(), timedelta(seconds=59), timedelta(days=-1)])
def test_a_misfire_limit_that_skips_ticks_in_good_order_is_refused(limit: timedelta) -> None:
    with pytest.raises(ValueError, match="misfire="):
        cron("0 0 * * *", misfire=limit)


def test_schedules_are_equal_when_their_text_is() -> None:
    assert cron("0 0 * * *") == Cron("0 0 * * *", "UTC")
    assert len({cron("0 0 * * *"), cron("0 0 * * *"), cron("0 0 * * *", "Europe/Berlin")}) == 2
