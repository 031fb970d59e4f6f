"""`/v1/rootstock/estimates`: what a job would take, asked with the body that would create it."""

from typing import Annotated

from fastapi import APIRouter

from service.deps import CallerDep, PartsDep, body_schema, json_body
from service.job_wish import Wish
from service.wire_estimates import ShownEstimate
from service.wire_jobs import CreateJob

router = APIRouter(prefix="/v1/rootstock/estimates", tags=["fine-tuning"])


@router.post("", openapi_extra=body_schema(CreateJob))
def estimate_job(body: Annotated[CreateJob, json_body(CreateJob)], parts: PartsDep, caller: CallerDep) -> ShownEstimate:
    """Tokens, steps, memory, time and cost of a job before it is created; nothing is created."""
    wish = Wish(parts.settings, caller, body, parts.upstream.most_rank)
    with parts.db.read() as tx:
        return ShownEstimate.of(*wish.estimate(tx))
