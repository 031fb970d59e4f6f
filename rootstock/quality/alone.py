"""Findings about lines by themselves, and about how rare facts, languages and refusals are among them.

Works on rows; knows nothing about lines that resemble one another.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence

from rootstock.quality.findings import File, Findings, counted
from rootstock.quality.kinds import Kind, Severity
from rootstock.quality.labels import Labels
from rootstock.quality.traits import Row

_FAULTS_NAMED = 50
_FACT_LINES = 3  # lines that state the same fact: it belongs to the style of the set, or is taught on purpose
_KNOWLEDGE = 0.02  # of the lines, before the set counts as one of knowledge
_LANGUAGE = 0.7  # of the lines that tell their language
_MINORITY = 0.2
_NUMBERS_GIVEN = 2  # in a prompt: the answer may have been computed from them


def faults(findings: Findings, file: File, rows: Sequence[Row]) -> None:
    """Find lines that cannot be used, each with its reason."""
    cures = {
        Kind.INVALID_JSON: "Write each example as one JSON object on one line, by a JSON writer rather than by hand.",
        Kind.INVALID_EXAMPLE: "Bring the example into the format of the training method, or take it out.",
        Kind.NO_TRAINABLE_TOKENS: "Give an assistant message the weight 1, or take the example out.",
    }
    named: Counter[str] = Counter()
    rest: dict[Kind, list[int]] = defaultdict(list)
    for row in rows:
        if row.fault is None:
            continue
        kind, reason = Kind(row.fault[0]), row.fault[1]
        named[kind] += 1
        if named[kind] > _FAULTS_NAMED:
            rest[kind].append(row.line)
        else:
            findings.add(kind, file, [row.line], f"Line {row.line} {_sentence(reason)}.", cures[kind])
    for kind, lines in rest.items():
        findings.add(kind, file, lines, f"{counted(len(lines), 'further line')} cannot be used either.", cures[kind])


def each(findings: Findings, file: File, rows: Sequence[Row], context: int, *, estimated: bool) -> None:
    """Find what is wrong with lines whatever the others are."""
    by_pii: dict[str, list[int]] = defaultdict(list)
    for row in rows:
        for kind in row.pii:
            by_pii[kind].append(row.line)
    for kind, lines in sorted(by_pii.items()):
        message = f"{_hold(lines)} {_PII[kind]}."
        cure = "Mask personal data before training: a tuned model can repeat it word for word."
        findings.add(Kind.PII, file, lines, message, cure)
    _add(findings, Kind.SECRET, file, [row.line for row in rows if row.secret], "a key, a token or a password",
         "Take it out and revoke it: it must be taken for leaked, and a tuned model can repeat it.")  # fmt: skip
    special = [row for row in rows if row.special is not None]
    if special:
        shown = ", ".join(f"'{token}'" for token, _ in Counter(row.special for row in special).most_common(3))
        what = f"control tokens of chat templates ({shown})"
        _add(findings, Kind.SPECIAL_TOKEN, file, [row.line for row in special], what,
             "Take them out of the texts: the chat template adds them itself.")  # fmt: skip
    _add(findings, Kind.ENCODING_DAMAGE, file, [row.line for row in rows if row.damaged], "text of a damaged encoding",
         "Decode the source with its true encoding; `rootstock data fix` mends what can be known.")  # fmt: skip
    silent = [row.line for row in rows if row.empty]
    if silent:
        message = (
            f"{counted(len(silent), 'example')} {'has an empty answer' if len(silent) == 1 else 'have empty answers'}."
        )
        cure = "Write the answers, or take the examples out: all that can be learnt from them is to say nothing."
        findings.add(Kind.NO_TRAINABLE_TOKENS, file, silent, message, cure, usual=Severity.WARNING)
    _lengths(findings, file, rows, context, estimated=estimated)


def shares(findings: Findings, file: File, rows: Sequence[Row], labels: Labels) -> None:
    """Find refusals, other languages than that of most lines, and facts that prompts do not hold."""
    refusing = [row.line for row in rows if row.refusal]
    if refusing:
        message = (
            f"{counted(len(refusing), 'answer')} of {len(rows):,} ({len(refusing) / len(rows):.1%}) refuse to answer."
        )
        cure = "Keep refusals to the share that you want in use, and take out those that nobody asked for."
        findings.add(Kind.REFUSAL, file, refusing, message, cure)
    _languages(findings, file, rows)
    knowing = known_facts([row for row in rows if labels.of(row) is None])
    if len(knowing) >= max(3, _KNOWLEDGE * len(rows)):
        message = (
            f"{counted(len(knowing), 'answer')} of {len(rows):,} state facts (numbers, names, dates) that prompts "
            "do not hold."
        )
        cure = "Put the facts into the prompt by retrieval: tuning teaches form and behaviour, and facts unreliably."
        findings.add(Kind.KNOWLEDGE, file, knowing, message, cure)


def known_facts(rows: Sequence[Row]) -> list[int]:
    """Lines whose free-text answers state facts of their own that were not given."""
    told = Counter(fact for row in rows for fact in set(row.facts))
    found = []
    for row in rows:
        own = [fact for fact in row.facts if told[fact] <= _FACT_LINES]
        if not own or row.refusal:
            continue
        given = sum(any(map(str.isdigit, word)) for word in row.words)
        strong = sum(_strong(fact, row, given) for fact in own)
        weak = 0 if row.language == "de" else sum(not any(map(str.isdigit, fact)) for fact in own)
        if strong or (weak and row.question) or weak >= 2:
            found.append(row.line)
    return found


def _strong(fact: str, row: Row, given: int) -> bool:
    digits = sum(map(str.isdigit, fact))
    if digits:
        return digits >= 2 and given < _NUMBERS_GIVEN
    return " " in fact and row.question and row.language != "de"


def _lengths(findings: Findings, file: File, rows: Sequence[Row], context: int, *, estimated: bool) -> None:
    long = [row.line for row in rows if row.tokens > context]
    about = "by estimate " if estimated else ""
    if long:
        are = "is" if len(long) == 1 else "are"
        message = f"{counted(len(long), 'example')} {are} {about}longer than {context:,} tokens and will be cut."
        cure = "Shorten or split them: what stands at the end, most often the answer, is not learnt."
        findings.add(Kind.TRUNCATED, file, long, message, cure)
    # An estimate may be out by half; a count is not.
    lost = [row.line for row in rows if row.given_tokens > context * (1.5 if estimated else 1.0)]
    if lost:
        fill = f"{'fills' if len(lost) == 1 else 'fill'} {context:,} tokens"
        message = f"{counted(len(lost), 'prompt')} alone {fill}, so that nothing of the answer is left to learn."
        cure = "Shorten the prompts: after truncation these examples have no trainable token."
        # A guess blocks nothing: the trainer counts, and names the line.
        usual = Severity.WARNING if estimated else None
        findings.add(Kind.NO_TRAINABLE_TOKENS, file, lost, message, cure, usual=usual)


def _languages(findings: Findings, file: File, rows: Sequence[Row]) -> None:
    spoken = Counter(row.language for row in rows if row.language)
    if len(spoken) < 2 or spoken.total() < 10:
        return
    first, most = spoken.most_common(1)[0]
    others = [row.line for row in rows if row.language not in (None, first)]
    if most < _LANGUAGE * spoken.total():
        shown = ", ".join(f"{name} {count / spoken.total():.0%}" for name, count in spoken.most_common(6))
        message = f"The examples are in several languages: {shown}."
        others = []
    elif len(others) <= _MINORITY * spoken.total() + 1:
        message = (
            f"{counted(len(others), 'example')} seem to be in another language than the others, which are in '{first}'."
        )
    else:
        message = f"{counted(len(others), 'example')} are in other languages than '{first}', the commonest."
    cure = "Nothing needs mending if the model will be asked in these languages; otherwise take them out."
    findings.add(Kind.LANGUAGE_MIX, file, others, message, cure)


_PII = {
    "email": "personal e-mail addresses",
    "phone": "telephone numbers",
    "card": "numbers of payment cards",
    "ssn": "US social security numbers",
    "iban": "bank accounts (IBAN)",
    "ip": "public IP addresses",
}


def _hold(lines: Sequence[int]) -> str:
    return f"{counted(len(lines), 'example')} {'holds' if len(lines) == 1 else 'hold'}"


def _add(findings: Findings, kind: Kind, file: File, lines: list[int], what: str, cure: str) -> None:
    if lines:
        findings.add(kind, file, lines, f"{_hold(lines)} {what}.", cure)


def _sentence(reason: str) -> str:
    text = reason.strip(" .").removeprefix("cannot be parsed. Error: line ")
    starts = ("contains", "is ", "repeats", "has ", "holds", "cannot")
    return text if text.startswith(starts) else f"cannot be used: {text}"
