"""Every row can be read back out of a packed row: its tokens, its positions, what it sees, what it learns."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from trainer.data import Row
from trainer.packing import MIN_SHARED, Packed, pack


@st.composite
def jobs(draw: st.DrawFn) -> list[list[Row]]:
    """Jobs whose rows often begin alike, some of them equal or one inside the other."""
    found = []
    for _ in range(draw(st.integers(1, 3))):
        stems: list[tuple[int, ...]] = [()]
        rows = []
        for _ in range(draw(st.integers(1, 5))):
            stem = draw(st.sampled_from(stems))
            text = stem + tuple(draw(st.lists(st.integers(0, 2), min_size=2, max_size=40)))
            stems += [text, text[: MIN_SHARED + 1]]
            learn = draw(st.lists(st.booleans(), min_size=len(text) - 1, max_size=len(text) - 1))
            rows.append(Row(1, text, (False, *learn[:-1], True)))
        found.append(rows)
    return found


def seen(packed: Packed, position: int) -> list[int]:
    """The positions that one attends to, itself last."""
    number = next(n for n, s in enumerate(packed.segments) if s.start <= position < s.start + s.length)
    own = packed.segments[number]
    above = [packed.segments[n] for n in own.above]
    return [i for s in above for i in range(s.start, s.start + s.length)] + list(range(own.start, position + 1))


@given(jobs(), st.booleans())
def test_each_learned_token_sees_its_own_row_and_nothing_else(given_jobs: list[list[Row]], share: bool) -> None:
    packed = pack(given_jobs, share=share)
    at = 0
    for rows, part in zip(given_jobs, packed.parts, strict=True):
        assert part.counts == tuple(sum(row.learn[1:]) for row in rows)
        for row in rows:
            for place in [i for i in range(1, len(row.ids)) if row.learn[i]]:
                source = int(packed.sources[at])
                context = seen(packed, source)
                assert part.start <= min(context) <= max(context) < part.end
                assert packed.ids[context].tolist() == list(row.ids[:place])
                assert packed.positions[context].tolist() == list(range(place))
                assert int(packed.targets[at]) == row.ids[place]
                at += 1
    assert at == len(packed.targets)
    if not share:
        assert packed.tokens == sum(len(row.ids) for rows in given_jobs for row in rows)


def test_a_common_beginning_is_there_once_and_only_within_a_job() -> None:
    stem = tuple(range(MIN_SHARED))
    rows = [Row(n, (*stem, 50 + n, 60), (False,) * (MIN_SHARED + 1) + (True,)) for n in range(4)]
    assert pack([rows]).tokens == MIN_SHARED + 4 * 2
    assert pack([rows[:2], rows[2:]]).tokens == 2 * (MIN_SHARED + 2 * 2)
    assert pack([rows], share=False).tokens == 4 * (MIN_SHARED + 2)


def test_equal_rows_cost_nothing_more() -> None:
    row = Row(1, tuple(range(40)), (False,) * 20 + (True,) * 20)
    packed = pack([[row, row, row]])
    assert packed.tokens == 40
    assert packed.parts[0].counts == (20, 20, 20)
    assert torch.equal(packed.sources[:20], packed.sources[20:40])
