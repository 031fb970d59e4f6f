"""`/v1/rootstock/advice`: prompting, retrieval, tuning or both, from examples, their report and what the base gets.

Gathers facts; the rules are `rootstock.advice`'s.
"""

import asyncio
import json
import random
import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool

from rootstock import files, models, quality
from rootstock.advice import FEWEST, Facts, advise
from rootstock.datasets import read_examples
from rootstock.datasets.parse import Fault, parse_object
from rootstock.datasets.shapes import check_example, recognise
from rootstock.errors import FileNotFound, InvalidRequest, InvalidValue, MissingParameter, ModelNotTunable, Unavailable
from rootstock.quality.findings import MAX_LINES
from rootstock.quality.kinds import Kind
from rootstock.records import Caller
from rootstock.release import metrics
from rootstock.release.held_out import Question, prompted, question, usable_shots
from rootstock.release.metrics import Metric
from rootstock.release.statistics import Interval, bootstrap
from service.deps import CallerDep, Parts, PartsDep, body_schema, json_body
from service.gateway import Addressee, Gateway
from service.releasing.asking import Asker, AwayForNow
from service.releasing.reading import max_tokens
from service.wire_advice import AdviceWish, ShownAdvice

router = APIRouter(prefix="/v1/rootstock/advice", tags=["fine-tuning"])

MOST_LINES = MAX_LINES
"""As many as one finding lists: shares are counted from the lines of findings."""

MOST_BYTES = 16 * 1024 * 1024
ASKED = 16
"""Held-out examples that the base is asked: enough to see whether a prompt does it, few enough to wait for."""

SHOTS = 5
AT_ONCE = 8
SEED = 1
ASK_SECONDS = 60.0

_FAULTY = (Kind.CONTRADICTION, Kind.INVALID_EXAMPLE, Kind.INVALID_JSON, Kind.NO_TRAINABLE_TOKENS)
_CHANGING = re.compile(
    r"\b(up[- ]to[- ]date|latest|current (prices?|news|stock|events)|knowledge ?base|our docs|documentation|"
    r"who is|opening hours|prices? of)\b",
    re.I,
)


@router.post("", openapi_extra=body_schema(AdviceWish))
async def advise_task(
    body: Annotated[AdviceWish, json_body(AdviceWish)], parts: PartsDep, caller: CallerDep
) -> ShownAdvice:
    """Whether to prompt, retrieve, tune or both, and why. Asks the base a few examples where it is served."""
    base = _base(parts, body)
    lines = await run_in_threadpool(_lines, parts, caller, body)
    report = await run_in_threadpool(quality.report, lines)
    findings: dict[Kind, set[int]] = {}
    for finding in report.findings:
        findings.setdefault(finding.kind, set()).update(finding.lines)
    questions = await run_in_threadpool(_questions, lines)
    metric = metrics.pick([one.reference for one in questions]) if questions else None
    scores: dict[str, Interval] = {}
    asked, shots = _parted(questions)
    if metric is not None and len(questions) >= FEWEST:
        scores = await _baseline(parts, caller, base, asked, shots, metric)
    count = max(1, len(lines))
    facts = Facts(
        examples=len(questions),
        labels=len(metric.labels) if metric else 0,
        knowledge_share=len(findings.get(Kind.KNOWLEDGE, ())) / count,
        faulty_share=len(set().union(*(findings.get(kind, set()) for kind in _FAULTY))) / count,
        zero_shot=scores.get("zero_shot"),
        few_shot=scores.get("few_shot"),
        changing=bool(body.task and _CHANGING.search(body.task)),
    )
    told = advise(facts)
    baseline = None
    if metric is not None and scores:
        shown = {name: scores[name].as_dict() if name in scores else None for name in ("zero_shot", "few_shot")}
        baseline = {"metric": metric.name, "examples": len(asked), **shown}
    return ShownAdvice.model_validate(
        {
            "object": "rootstock.advice",
            "recommendation": told.recommendation,
            "reasons": [asdict(reason) for reason in told.reasons],
            "base": base,
            "examples": len(questions),
            "findings": {str(kind): len(numbers) for kind, numbers in sorted(findings.items())},
            "baseline": baseline,
        }
    )


def _base(parts: Parts, body: AdviceWish) -> str:
    try:
        return models.resolve_base(parts.settings, body.model or parts.settings.base_name)[1]
    except ModelNotTunable:
        raise InvalidValue("Invalid 'model': name a base model of this deployment.", param="model") from None


def _lines(parts: Parts, caller: Caller, body: AdviceWish) -> list[bytes]:
    """At most `MOST_LINES` lines, that are examples."""
    if (body.training_file is None) == (body.examples is None):
        if body.examples is None:
            raise MissingParameter("Missing required parameter: 'training_file', or 'examples'.", param="training_file")
        raise InvalidRequest("Send 'training_file' or 'examples', not both.", param="examples")
    if body.examples is not None:
        made = [json.dumps(one, ensure_ascii=False).encode() for one in body.examples]
        for number, line in enumerate(made):
            _check(line, number)
        return made
    with parts.db.read() as tx:
        try:
            file = files.get(tx, caller.project_id, body.training_file or "")
        except FileNotFound:
            text = f"invalid training_file: {(body.training_file or '')[:512]}"
            raise InvalidRequest(text, param="training_file") from None
    if file.purpose != "fine-tune":
        raise InvalidRequest(
            f"File {file.id} has the purpose '{file.purpose}', not 'fine-tune'.", param="training_file"
        )
    content = bytearray()
    for chunk in parts.store.get(file.object_key):
        content += chunk
        if len(content) > MOST_BYTES:
            break
    lines = bytes(content[:MOST_BYTES]).split(b"\n")
    if len(content) > MOST_BYTES:
        del lines[-1]  # cut in two: no fault of the file's
    return [line for line in lines if line.strip()][:MOST_LINES]


def _check(line: bytes, number: int) -> None:
    try:
        example = parse_object(line)
        check_example(example, recognise(example, None))
    except Fault as fault:
        text = f"Invalid 'examples[{number}]': it {fault.text.strip().lstrip(':')}"
        raise InvalidValue(text, param=f"examples[{number}]") from None


def _questions(lines: Sequence[bytes]) -> list[Question]:
    """What can be asked of a model; lines that are no examples are in the findings."""
    found = []
    for line in lines:
        try:
            example = parse_object(line)
            check_example(example, recognise(example, None))
            found += [one for one in map(question, read_examples([line])) if one is not None and one.reference]
        except Fault:
            continue
    return found


def _parted(questions: list[Question]) -> tuple[list[Question], list[Question]]:
    """Those that are asked, and examples for the prompt that are not among them."""
    shuffled = random.Random(SEED).sample(questions, len(questions))
    count = min(ASKED, len(shuffled) // 2)
    known = {one.shown for one in shuffled[:count]}
    return shuffled[:count], [shot for shot in usable_shots(shuffled[count:]) if shot.shown not in known][:SHOTS]


async def _baseline(
    parts: Parts, caller: Caller, base: str, asked: Sequence[Question], shots: Sequence[Question], metric: Metric
) -> dict[str, Interval]:
    """What the base gets; nothing where it is not served, or does not answer in time."""
    try:
        parts.upstream.fleet(base)
    except Unavailable:
        return {}
    gateway = Gateway(parts.settings, parts.db, parts.upstream, parts.meter)
    asker = Asker(gateway, caller, Addressee(base, base, None), at_once=AT_ONCE, wait=0.2)
    told = {"zero_shot": list(asked)} | ({"few_shot": [prompted(one, shots) for one in asked]} if shots else {})
    limit, found = max_tokens([one.reference for one in (*asked, *shots)]), {}
    try:
        async with asyncio.timeout(ASK_SECONDS):
            for name, group in told.items():
                scores = [
                    metric.score(text or "", asked[number].reference)
                    async for answers in asker.each(list(enumerate(group)), limit)
                    for number, text in answers
                ]
                found[name] = bootstrap(scores, seed=SEED)
    except (AwayForNow, TimeoutError):
        return found
    return found
