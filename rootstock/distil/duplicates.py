"""Nearly the same example twice teaches nothing new: the later one is found. Knows no rows."""

from collections.abc import Iterable

from rootstock.quality.near import pairs, signatures
from rootstock.quality.words import bag, words


def near_duplicates(examples: Iterable[tuple[int, str, str]], threshold: float) -> set[int]:
    """The numbers of questions whose like was kept earlier, with an answer that is alike, too.

    `examples` are (number, question, answer) in the order in which the first of alike ones is kept. Two texts are alike
    when their words and pairs of words share at least `threshold` (Jaccard, 0 to 1), as MinHash estimates it. Both are
    looked at, because a form filled in with other numbers is nearly the same question, and only its answer tells
    whether there is something to learn.
    """
    given = list(examples)
    asked = signatures([bag(words(question)) for _, question, _ in given])
    said = signatures([bag(words(answer)) for *_, answer in given])
    alike = [(j, i) for i, j in pairs(asked, threshold) if (said[i] == said[j]).mean() >= threshold]
    dropped: set[int] = set()
    for later, earlier in sorted(alike):
        if earlier not in dropped:
            dropped.add(later)
    return {given[place][0] for place in dropped}
