"""The rules of advice: one row for each reason."""

import pytest

from rootstock.advice import Facts, advise
from rootstock.release.statistics import Interval


def got(mean: float) -> Interval:
    return Interval(mean - 0.1, mean, mean + 0.1)


@pytest.mark.parametrize(
    ("facts", "recommendation", "codes"),
    [
        (Facts(examples=4), "prompting", ["too_few_examples"]),
        (Facts(examples=500), "tuning", ["not_measured"]),
        (Facts(500, zero_shot=got(0.2), few_shot=got(0.5)), "tuning", ["room_to_gain"]),
        (Facts(500, zero_shot=got(0.97)), "prompting", ["prompting_meets_the_bar"]),
        (Facts(500, zero_shot=got(0.2), few_shot=got(0.96)), "prompting", ["prompting_meets_the_bar"]),
        (Facts(30, zero_shot=got(0.2)), "tuning", ["few_examples", "room_to_gain"]),
        (Facts(60, labels=20, zero_shot=got(0.2)), "tuning", ["few_per_label", "room_to_gain"]),
        (Facts(500, knowledge_share=0.9), "retrieval", ["answers_hold_facts"]),
        (Facts(500, knowledge_share=0.4, few_shot=got(0.3)), "both", ["answers_hold_facts"]),
        (Facts(5, knowledge_share=0.4), "retrieval", ["answers_hold_facts", "too_few_examples"]),
        (Facts(500, changing=True, few_shot=got(0.99)), "retrieval", ["facts_change", "prompting_meets_the_bar"]),
        (Facts(500, faulty_share=0.2, few_shot=got(0.3)), "tuning", ["mend_the_data", "room_to_gain"]),
    ],
)
def test_each_reason_leads_where_it_should(facts: Facts, recommendation: str, codes: list[str]) -> None:
    told = advise(facts)
    assert told.recommendation == recommendation
    assert [reason.code for reason in told.reasons] == codes
