"""The evaluation: what finds a label, what is a false alarm, and what chance would have been worth."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.examples import examples

from helios_core.alerts import Alert, AlertState, Family, Severity
from helios_core.clock import to_us
from helios_core.errors import InputError
from helios_detector.evaluation import Label, Onset, evaluate, judge, onsets_of, read_labels, wilson

T0 = datetime(2026, 3, 3, 12, tzinfo=UTC)
S = 1_000_000
DAY_S = 86_400
FIRED, RAISED, RESOLVED = AlertState.FIRED, AlertState.RAISED, AlertState.RESOLVED


def at(second: float) -> int:
    return to_us(T0) + round(second * S)


def label(start_s: float = 0, end_s: float = 600, service: str = "web", kind: str = "outage", also: str = "") -> Label:
    return Label(
        service=service,
        kind=kind,
        start=T0 + timedelta(seconds=start_s),
        end=T0 + timedelta(seconds=end_s),
        also=tuple(also.split()),
    )


def onset(second: float, service: str = "web") -> Onset:
    return Onset(service, at(second))


def alert(
    second: float, service: str = "web", state: AlertState = FIRED, family: Family = Family.ERRORS, onset_s: float = 0
) -> Alert:
    return Alert(
        id=f"{service}-{second}-{family}",
        episode="e",
        service=service,
        family=family,
        state=state,
        severity=Severity.HIGH,
        decided_us=at(second),
        onset_us=at(onset_s),
        seen_us=at(second),
        horizon_us=300 * S,
        detectors=("rules",),
        findings=(),
        features={},
    )


# A service that learned for a day and was watched for two more.
SPANS = {"web": (at(-DAY_S), at(0), at(2 * DAY_S))}


@pytest.mark.parametrize(
    ("second", "found"),
    [(-0.000001, 0), (0, 1), (1, 1), (600, 1), (600 + 300, 1), (600 + 300.000001, 0), (5_000, 0)],
)
def test_an_onset_finds_from_the_start_to_five_minutes_after_the_end(second: float, found: int) -> None:
    judged = judge([onset(second)], [label()])
    assert (judged.found, judged.false) == (found, 1 - found)


def test_the_delay_is_from_the_start_of_the_label_to_its_first_onset() -> None:
    judged = judge([onset(40), onset(90)], [label()])
    assert judged.delays_s == (40.0,)
    assert judged.found == 1
    assert judged.false == 0


def test_an_onset_elsewhere_finds_nothing_but_on_a_service_that_it_spreads_to() -> None:
    spreading = label(also="gateway cart")
    assert judge([onset(10, "gateway")], [spreading]).found == 1
    assert judge([onset(10, "cart"), onset(20)], [spreading]).found == 1
    other = judge([onset(10, "users")], [spreading])
    assert (other.found, other.false) == (0, 1)


def test_one_onset_may_find_several_labels() -> None:
    judged = judge([onset(100)], [label(), label(50, 700), label(0, 600, "cart")])
    assert judged.found_labels == {0, 1}
    assert judged.delays_s == (100.0, 50.0)
    assert judged.false == 0


def test_repeats_within_ten_minutes_on_one_service_count_once() -> None:
    def false(*seconds: float, service: str = "web") -> int:
        return judge([onset(second, service) for second in seconds], []).false

    assert false(0) == 1
    assert false(0, 600) == 1
    assert false(0, 600.000001) == 2
    assert false(0, 0) == 1
    both = judge([onset(0), onset(5, "cart")], [])
    assert both.false == 2


def test_what_found_something_is_no_repeat_of_what_did_not() -> None:
    judged = judge([onset(-200), onset(100), onset(500), onset(1_000)], [label()])
    assert (judged.found, judged.false) == (1, 2)


def test_onsets_are_the_alerts_that_fire_or_rise_by_time() -> None:
    alerts = [alert(30, state=RAISED), alert(90, state=RESOLVED), alert(10, "b"), alert(10, "a")]
    assert onsets_of(alerts) == [onset(10, "a"), onset(10, "b"), onset(30)]


def test_an_alert_that_is_already_open_finds_nothing() -> None:
    """Nor does its end; only a rise does."""
    opened = [alert(-300), alert(200, state=RESOLVED)]
    result = evaluate(opened, [label()], SPANS | {"web": (at(-2 * DAY_S), at(-DAY_S), at(DAY_S))})
    assert (result["found"], result["false_alarms"]) == (0, 1)
    risen = evaluate([*opened, alert(100, state=RAISED)], [label()], SPANS)
    assert risen["found"] == 1


def test_it_is_the_decision_that_counts_and_not_when_it_began() -> None:
    assert evaluate([alert(30, onset_s=-60)], [label()], SPANS)["found"] == 1
    assert evaluate([alert(1_000, onset_s=300)], [label()], SPANS)["false_alarms"] == 1


def test_without_alerts_nothing_is_found_and_precision_is_unknown() -> None:
    result = evaluate([], [label(), label(2_000, 3_000, kind="slow")], SPANS)
    assert (result["labels"], result["found"], result["false_alarms"]) == (2, 0, 0)
    assert result["precision"] is None
    assert result["precision_interval"] is None
    assert result["recall"] == 0.0
    assert result["median_delay_s"] is None
    assert result["false_alarms_per_service_day"] == 0.0
    assert result["by_kind"]["slow"] == {"labels": 1, "found": 0, "recall": 0.0, "median_delay_s": None}
    assert result["by_chance"]["random"] == {"precision": None, "recall": 0.0}


def test_without_labels_every_alert_is_false_and_recall_is_unknown() -> None:
    result = evaluate([alert(10), alert(5_000)], [], SPANS)
    assert (result["found"], result["false_alarms"]) == (0, 2)
    assert result["precision"] == 0.0
    assert result["recall"] is None
    assert result["recall_interval"] is None
    assert result["false_alarms_per_service_day"] == 1.0
    assert result["by_kind"] == {}


def test_without_anything_there_is_a_result() -> None:
    result = evaluate([], [], {})
    assert result["service_days"] == 0
    assert result["false_alarms_per_service_day"] is None
    assert result["by_chance"]["every_n"] == {"precision": None, "recall": None}


def test_false_alarms_while_learning_are_counted_apart() -> None:
    spans = {"web": (at(-DAY_S), at(1_000), at(2 * DAY_S))}
    result = evaluate([alert(-5_000), alert(-3_000), alert(1_000), alert(9_000)], [], spans)
    assert result["false_alarms_while_learning"] == 2
    assert result["false_alarms"] == 2
    assert result["service_days"] == pytest.approx(2 - 1_000 / DAY_S)


def test_what_was_found_while_learning_is_no_false_alarm_either() -> None:
    spans = {"web": (at(-DAY_S), at(5_000), at(2 * DAY_S))}
    result = evaluate([alert(100)], [label()], spans)
    assert (result["found"], result["false_alarms"], result["false_alarms_while_learning"]) == (0, 0, 0)


def test_a_service_that_ended_while_it_learned_has_no_days() -> None:
    result = evaluate([], [], SPANS | {"new": (at(0), at(DAY_S), at(100))})
    assert result["service_days"] == 2.0


def test_alerts_of_one_instant_are_told_apart_by_when_they_came() -> None:
    both = [alert(20, family=Family.ERRORS), alert(20, family=Family.LATENCY)]
    assert evaluate(both, [label()], SPANS)["found"] == 1


def test_kinds_are_counted_by_themselves() -> None:
    labels = [label(), label(10_000, 10_600), label(20_000, 20_600, kind="slow"), label(30_000, 30_600, kind="slow")]
    result = evaluate([alert(60), alert(10_030), alert(20_100)], labels, SPANS)
    assert result["by_kind"] == {
        "outage": {"labels": 2, "found": 2, "recall": 1.0, "median_delay_s": 45.0},
        "slow": {"labels": 2, "found": 1, "recall": 0.5, "median_delay_s": 100.0},
    }
    assert result["median_delay_s"] == 60.0
    assert result["precision"] == 1.0
    assert result["recall"] == 0.75


# Brown, Cai and DasGupta (2001); R: prop.test(x, n, correct = FALSE)$conf.int.
@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (5, 10, 0.2366, 0.7634),
        (1, 1, 0.2065, 1.0),
        (0, 1, 0.0, 0.7935),
        (81, 263, 0.2553, 0.3662),
        (95, 100, 0.8882, 0.9785),
    ],
)
def test_wilson_intervals_are_the_known_ones(successes: int, trials: int, low: float, high: float) -> None:
    assert wilson(successes, trials) == pytest.approx((low, high), abs=5e-5)


def test_without_trials_there_is_no_interval() -> None:
    assert wilson(0, 0) is None


@given(st.integers(0, 500), st.integers(0, 500))
def test_an_interval_holds_its_share_and_is_the_mirror_of_the_other(successes: int, failures: int) -> None:
    trials = successes + failures
    interval = wilson(successes, trials)
    if interval is None:
        assert trials == 0
        return
    low, high = interval
    assert 0 <= low <= successes / trials + 1e-12
    assert successes / trials - 1e-12 <= high <= 1
    assert wilson(failures, trials) == pytest.approx((1 - high, 1 - low))


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "labels.json"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


GOOD = {"service": "web", "kind": "outage", "start": "2026-03-03T12:00:00Z", "end": "2026-03-03T12:10:00Z"}


def test_labels_are_read_with_their_zones_and_without_what_is_not_known(tmp_path: Path) -> None:
    more = GOOD | {"also": ["cart"], "severity": 0.5, "reached": {"cart": {"deep": [[1]]}}}
    zoned = GOOD | {"start": "2026-03-03T13:00:00+01:00", "end": "2026-03-03T13:10:00.000+01:00"}
    labels = read_labels(written(tmp_path, json.dumps([more, zoned])))
    assert labels[0] == label(also="cart")
    assert (labels[1].start_us, labels[1].until_us) == (at(0), at(900))
    assert read_labels(written(tmp_path, "[]")) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not a JSON array of labels"),
        ("{}", "is not a JSON array of labels"),
        ('[{"service": "web"}]', "is not a JSON array of labels"),
        (b"\xff\xfe", "is not a JSON array of labels"),
        (json.dumps([GOOD])[:-1], "is not a JSON array of labels"),
        (json.dumps([GOOD | {"service": 5}]), "is not a JSON array of labels"),
        (json.dumps([GOOD | {"start": "yesterday"}]), "is not a JSON array of labels"),
        (json.dumps([GOOD | {"start": 1_772_539_200}]), "is not a JSON array of labels"),
        (json.dumps([GOOD | {"start": "2026-03-03T12:00:00"}]), "has no time zone"),
        (json.dumps([GOOD, GOOD | {"end": "2026-03-03T11:00:00Z"}]), "ends before it starts"),
        (json.dumps([GOOD | {"end": GOOD["start"]}]), "ends before it starts"),
        ('[{"x": ' + "[" * 5_000 + "]" * 5_000 + "}]", "is not a JSON array of labels"),
    ],
    ids=range(12),
)
def test_bad_labels_are_refused_with_the_file_and_the_reason(tmp_path: Path, text: str | bytes, message: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(InputError, match=message) as raised:
        read_labels(path)
    assert str(path) in str(raised.value)


def test_labels_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.json", tmp_path):
        with pytest.raises(InputError, match="cannot be read"):
            read_labels(path)


def test_chance_finds_what_its_share_of_the_time_is() -> None:
    """One label of a tenth of two days, one onset: chance finds it in a tenth of the cases."""
    result = evaluate([alert(10)], [label(0, 0.2 * DAY_S - 300)], SPANS)
    assert result["by_chance"]["random"]["recall"] == pytest.approx(0.1, abs=0.06)
    assert result["by_chance"]["random"]["precision"] == pytest.approx(0.1, abs=0.06)
    assert result["by_chance"]["every_n"] == {"precision": 0.0, "recall": 0.0}  # one onset, after a day
    middle = evaluate([alert(10)], [label(DAY_S - 60, DAY_S + 60)], SPANS)
    assert middle["by_chance"]["every_n"] == {"precision": 1.0, "recall": 1.0}


def test_chance_is_as_often_as_the_alerts_were_and_the_same_each_time() -> None:
    labels = [label(hour * 7_200, hour * 7_200 + 600) for hour in range(20)]
    few = evaluate([alert(10)], labels, SPANS)["by_chance"]
    many = evaluate([alert(10 + 700 * i) for i in range(200)], labels, SPANS)["by_chance"]
    assert few["random"]["recall"] < 0.1 < many["random"]["recall"]
    assert many == evaluate([alert(10 + 700 * i) for i in range(200)], labels, SPANS)["by_chance"]


ALERTS = st.lists(
    st.builds(
        alert,
        st.integers(-DAY_S, 2 * DAY_S),
        st.sampled_from(["web", "cart"]),
        st.sampled_from(AlertState),
        st.sampled_from(Family),
    ),
    max_size=20,
)
LABELS = st.lists(
    st.builds(
        lambda start, length, service, kind, also: label(start, start + length, service, kind, also),
        st.integers(-DAY_S, 2 * DAY_S),
        st.integers(1, 4_000),
        st.sampled_from(["web", "cart"]),
        st.sampled_from(["outage", "slow"]),
        st.sampled_from(["", "web", "cart"]),
    ),
    max_size=8,
)


@settings(max_examples=examples(40), deadline=None)
@given(ALERTS, LABELS, st.sampled_from([SPANS, SPANS | {"cart": (at(-DAY_S), at(0), at(60))}, {}]))
def test_whatever_it_is_given_the_result_adds_up(
    alerts: list[Alert], labels: list[Label], spans: Mapping[str, tuple[int, int, int]]
) -> None:
    result = evaluate(alerts, labels, spans)
    assert 0 <= result["found"] <= result["labels"] == len(labels)
    assert sum(kind["found"] for kind in result["by_kind"].values()) == result["found"]
    assert sum(kind["labels"] for kind in result["by_kind"].values()) == len(labels)
    onsets = [a for a in alerts if a.state is not RESOLVED]
    assert result["false_alarms"] + result["false_alarms_while_learning"] <= len(onsets)
    for name in ("precision", "recall"):
        share, interval = result[name], result[f"{name}_interval"]
        assert (share is None) == (interval is None)
        if share is not None:
            assert interval[0] - 1e-9 <= share <= interval[1] + 1e-9
    for row in result["by_chance"].values():
        assert all(value is None or 0 <= value <= 1 for value in row.values())
    assert json.dumps(result)
    shuffled = evaluate(alerts[::-1], labels, spans)
    assert shuffled == result


def test_thousands_of_alerts_are_judged_at_once() -> None:
    alerts = [alert(i * 60, f"s{i % 50}") for i in range(3_000)]
    assert evaluate(alerts, [label()], {})["labels"] == 1
