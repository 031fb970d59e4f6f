"""The training benchmark measures what it says: its rows, its counter, its ratios and its verdicts."""

import statistics

import pytest
import torch

from benchmarks.training import work
from benchmarks.training.figures import Figure, compare, operations
from benchmarks.training.measure import Ratio, loss_gap, op_counter


def test_rows_are_those_of_the_definition() -> None:
    rows = work.chat_rows(work.ROWS, work.SEED)
    lengths = [len(row.ids) for row in rows]
    assert rows == work.chat_rows(work.ROWS, work.SEED)
    assert (min(lengths) >= 30, max(lengths) <= 600, len(rows)) == (True, True, 500)
    assert statistics.median(lengths) == pytest.approx(130, rel=0.1)
    assert sum(sum(row.learn) for row in rows) / sum(lengths) == pytest.approx(0.43, abs=0.03)
    for row in rows:
        assert len(row.ids) == len(row.learn) and not row.learn[0] and row.learn[-1]
        assert min(row.ids) >= work.RESERVED and max(row.ids) < work.VOCABULARY


def test_a_shared_prompt_stands_before_every_row_and_is_not_learned() -> None:
    rows = work.chat_rows(20, 1)
    longer = work.with_prompt(rows, 2)
    assert {row.ids[: work.PROMPT] for row in longer} == {longer[0].ids[: work.PROMPT]}
    assert not any(any(row.learn[: work.PROMPT]) for row in longer)
    assert [row.ids[work.PROMPT :] for row in longer] == [row.ids for row in rows]


def test_rows_survive_their_file(tmp_path) -> None:
    rows = work.chat_rows(5, 3)
    work.save_rows(tmp_path / "rows.jsonl", rows)
    assert work.load_rows(tmp_path / "rows.jsonl") == rows
    assert work.load_rows(tmp_path / "rows.jsonl", 2) == rows[:2]


def test_the_counter_counts_work_and_no_views_in_both_directions() -> None:
    x = torch.ones(3, 4, requires_grad=True)
    with op_counter() as counter:
        y = (x @ x.t()).view(9)  # one product
        total = y.sum()  # one sum
    assert counter.count == 2
    with op_counter() as backward:
        total.backward()
    assert backward.count >= 3  # two products and their sum, at least


def test_a_ratio_compares_what_ran_next_to_each_other() -> None:
    assert Ratio.of([10.0, 40.0, 9.0], [5.0, 10.0, 3.0]) == Ratio(3.0, 2.0, 4.0)
    assert str(Ratio(3.0, 2.0, 4.0)) == "3.00 [2.00-4.00]"


@pytest.mark.parametrize(
    ("left", "right", "gap"),
    [
        ([1.0, 2.0], [1.0, 2.5], 0.5),
        ([1.0], [1.0, 2.0], float("inf")),
        ([float("nan")], [1.0], float("inf")),
        ([], [], float("inf")),
    ],
)
def test_losses_must_be_there_finite_and_near(left, right, gap) -> None:
    assert loss_gap(left, right) == gap


class Answers:
    """Sides that answer from a list instead of training."""

    def __init__(self, **answers) -> None:
        self._answers = answers

    def ask(self, side, do, **arguments):
        return self._answers[side]

    def note(self, text) -> None: ...


@pytest.mark.parametrize(
    ("ours", "verdict"),
    [
        ({"cpu_s": 1.0, "losses": [2.0]}, "reached"),
        ({"cpu_s": 2.0, "losses": [2.0]}, "below"),
        ({"cpu_s": 1.0, "losses": [2.01]}, "invalid"),
        ({"error": "it broke"}, "invalid"),
    ],
)
def test_a_figure_below_its_target_or_with_other_losses_says_so(ours, verdict) -> None:
    sides = Answers(trl={"cpu_s": 3.0, "losses": [2.0]}, engine=ours)
    figure = compare(sides, "one job", ("trl", "train", {}), ("engine", "train", {}), 3.0, 3)
    assert figure.verdict == verdict
    assert figure.to_json()["verdict"] == verdict and figure.raw


def test_operations_are_per_job() -> None:
    sides = Answers(engine={"operations": 800, "jobs": 8}, hf={"operations": 1000, "jobs": 1})
    (figure,) = operations(sides)
    assert (figure.value, figure.verdict) == (0.1, "reached")


def test_at_most_is_the_other_way_round() -> None:
    assert Figure("memory", 0.3, 0.4, least=False).verdict == "reached"
    assert Figure("memory", 0.5, 0.4, least=False).verdict == "below"
