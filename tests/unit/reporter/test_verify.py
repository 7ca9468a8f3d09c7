"""The verifier: a claim stands only on evidence that exists and says the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helios_reporter.evidence import EvidencePack
from helios_reporter.report import Claim, Report
from helios_reporter.verify import verify

SECTIONS = (
    "summary", "impact", "causes", "actions_immediate", "actions_short_term", "actions_long_term", "checked_and_normal",
)  # fmt: skip


def pack(*values: tuple[float | None, float | None], service: str = "web") -> EvidencePack:
    made = EvidencePack(incident_id="i")
    for value, baseline in values:
        made.add(
            kind="metric", service=service, from_us=0, to_us=1, source="test", name="error_rate", unit="share",
            value=value, baseline=baseline,
        )  # fmt: skip
    return made


def report(claim: Claim, section: str = "summary", services: tuple[str, ...] = ("web",)) -> Report:
    sections: dict[str, tuple[Claim, ...]] = dict.fromkeys(SECTIONS, ())
    sections[section] = (claim,)
    return Report(
        schema_version=1,
        generator="test",
        incident_id="i",
        title="web",
        severity="high",
        services=services,
        started_us=0,
        ended_us=None,
        timeline=(),
        unknowns=(),
        truncation=(),
        **sections,
    )


def stands(text: str, made: EvidencePack, *ids: str) -> bool:
    kept, dropped = verify(report(Claim(text=text, evidence=ids)), made)
    assert len(kept.summary) + len(dropped) == 1
    return bool(kept.summary)


RISE, FALL, SAME = (0.5, 0.1), (0.1, 0.5), (0.2, 0.2)


@pytest.mark.parametrize("section", SECTIONS)
def test_a_claim_that_cites_nothing_is_dropped_wherever_it_stands(section: str) -> None:
    kept, dropped = verify(report(Claim(text="All is well.", evidence=()), section), pack(RISE))
    assert getattr(kept, section) == ()
    assert dropped == [f"{section}: it cites nothing: All is well."]


@pytest.mark.parametrize("ids", [("E2",), ("E1", "E7"), ("e1",), ("",), ("E0",)])
def test_a_claim_that_cites_what_is_not_there_is_dropped(ids: tuple[str, ...]) -> None:
    assert not stands("The error rate is high.", pack(RISE), *ids)


@pytest.mark.parametrize(
    ("text", "sign"),
    [
        ("The error rate rose.", 1),
        ("The error rate ROSE from 10 % to 50 %.", 1),
        ("Latency increased.", 1),
        ("It is higher than before.", 1),
        ("Traffic fell.", -1),
        ("Traffic has dropped.", -1),
        ("It decreased to 10 %.", -1),
        ("It is lower than before.", -1),
    ],
)
def test_words_of_direction_agree_with_the_change(text: str, sign: int) -> None:
    for values, own in ((RISE, 1), (FALL, -1), (SAME, 0), ((0.5, None), 0), ((None, 0.5), 0)):
        assert stands(text, pack(values), "E1") == (own == sign)


def test_one_of_several_that_it_cites_is_enough() -> None:
    assert stands("The error rate rose.", pack(FALL, SAME, RISE), "E1", "E2", "E3")
    assert not stands("The error rate rose.", pack(FALL, SAME, RISE), "E1", "E2")


def test_both_directions_need_both_changes() -> None:
    assert stands("Errors rose and traffic fell.", pack(RISE, FALL), "E1", "E2")
    assert not stands("Errors rose and traffic fell.", pack(RISE, RISE), "E1", "E2")


@pytest.mark.parametrize("text", ["A prose text.", "The roses are red.", "It fellow-travels.", "Raised by nobody."])
def test_words_that_only_contain_one_of_direction_are_none(text: str) -> None:
    assert stands(text, pack(SAME), "E1")


def test_what_is_quoted_does_not_count() -> None:
    assert stands("It logs “connections rose and fell”.", pack(SAME), "E1")
    assert not stands("It logs “connections rose” and fell.", pack(SAME), "E1")
    assert not stands("It “logs” and rose “twice”.", pack(SAME), "E1")


@pytest.mark.parametrize("service", ["dropped-frames", "Fell", "increased", "rose.garden", "a-dropped", "x“y"])
def test_the_name_of_a_service_is_no_word_of_direction(service: str) -> None:
    claim = Claim(text=f"On {service} the error rate changed, {service}.", evidence=("E1",))
    _, dropped = verify(report(claim, services=(service,)), pack(SAME))
    assert dropped == []


def test_a_service_with_an_odd_name_does_not_hide_a_wrong_direction() -> None:
    claim = Claim(text="On a the error rate rose, says a(b.", evidence=("E1",))
    _, dropped = verify(report(claim, services=("a", "a(b", "ros", "e rate", "")), pack(FALL, service="e"))
    assert len(dropped) == 1


def test_what_stands_is_left_as_it_is() -> None:
    good = report(Claim(text="The error rate rose.", evidence=("E1",), kind="inferred"), "causes")
    assert verify(good, pack(RISE)) == (good, [])


@given(
    st.floats(0, 1) | st.none(),
    st.floats(0, 1) | st.none(),
    st.sampled_from(["rose", "fell", "is"]),
    st.sampled_from(["E1", "E2"]),
)
def test_no_claim_stands_against_its_evidence(
    value: float | None, baseline: float | None, word: str, cited: str
) -> None:
    known = value is not None and baseline is not None
    rose = known and value > baseline  # type: ignore[operator]
    fell = known and value < baseline  # type: ignore[operator]
    right = {"rose": rose, "fell": fell, "is": True}[word] and cited == "E1"
    assert stands(f"The error rate {word} there.", pack((value, baseline)), cited) == right
