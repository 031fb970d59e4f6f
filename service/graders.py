"""`/v1/fine_tuning/alpha/graders`: a grader checked, or tried on one answer, before a job is spent on it.

What a grader does with an answer is `rootstock.grading`'s. A grading that fails is an answer, not an error of the API.
"""

import time
from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter

from rootstock.grading import Sample, compile_grader
from rootstock.records import Caller
from service.deps import CallerDep, Parts, PartsDep, body_schema, json_body
from service.judge import GatewayJudge
from service.wire_graders import Grader
from service.wire_grading import GraderErrors, GraderMetadata, GraderRun, RunGrader, ValidateGrader, ValidGrader

router = APIRouter(prefix="/v1/fine_tuning/alpha/graders", tags=["fine-tuning"])


@router.post("/validate", openapi_extra=body_schema(ValidateGrader))
def validate_grader(body: Annotated[ValidateGrader, json_body(ValidateGrader)], caller: CallerDep) -> ValidGrader:
    """Check that a grader can work; it comes back as it will be read."""
    compile_grader(_spec(body.grader), at="grader")
    return ValidGrader(grader=_spec(body.grader))


@router.post("/run", openapi_extra=body_schema(RunGrader))
async def run_grader(body: Annotated[RunGrader, json_body(RunGrader)], parts: PartsDep, caller: CallerDep) -> GraderRun:
    """Grade one answer. A grading that fails gives the reward 0 and says why in `metadata.errors`."""
    # It may take minutes: not in the threads that all requests share.
    return await to_thread.run_sync(_run, body, parts, caller, limiter=parts.readers[caller.project_id])


def _run(body: RunGrader, parts: Parts, caller: Caller) -> GraderRun:
    grader = compile_grader(_spec(body.grader), python=parts.python, at="grader")
    judge = GatewayJudge(parts, caller)
    started = time.monotonic()
    grade = grader.grade(body.facts(), Sample.of(body.model_sample), judge)
    seconds = time.monotonic() - started
    usage = {model: dict(counted) for model, counted in judge.usage.items()}
    return GraderRun(
        reward=grade.reward,
        metadata=GraderMetadata(
            name=grader.name,
            type=grader.kind,
            errors=GraderErrors.of(grade),
            execution_time=seconds,
            scores=grade.sub_rewards,
            token_usage=sum(counted["total_tokens"] for counted in usage.values()) if usage else None,
            sampled_model_name=next(iter(usage)) if len(usage) == 1 else None,
        ),
        sub_rewards=grade.sub_rewards,
        model_grader_token_usage_per_model=usage,
    )


def _spec(grader: Grader) -> dict[str, Any]:
    return grader.model_dump(exclude_none=True)
