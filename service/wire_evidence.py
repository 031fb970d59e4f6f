"""The evidence pack of a tuned model; its schema is `openapi/evidence.schema.json`. Knows no HTTP and no database."""

from typing import Any, Literal

from service.wire import ResponseModel
from service.wire_release import ShownRelease

THRESHOLD = 1 / 3


class EvidenceFile(ResponseModel):
    """A file that the model was made from, by the hash of its content. `deleted`: its owner deleted it since."""

    id: str
    filename: str
    bytes: int
    sha256: str
    examples: int | None
    format: str | None
    deleted: bool


class Lineage(ResponseModel):
    """From records to weights: every id and hash that leads from the data to what is served."""

    job_id: str
    adapter_id: str
    kind: Literal["lora", "full"]
    files: dict[str, str]
    base: str
    base_sha256: str
    template_sha256: str
    start_model: str | None
    training_file: EvidenceFile
    validation_file: EvidenceFile | None


class Compute(ResponseModel):
    """What training took, in floating-point operations, against the training of the base model.

    Who changes a model with more than a third of the computing that its training took becomes its provider (Guidelines
    on general-purpose AI models, European Commission, July 2025, on Regulation (EU) 2024/1689). Null: not known.
    """

    trained_tokens: int | None
    base_weights: int | None
    operations_per_weight_and_token: int
    operations: float | None
    base_training_operations: float | None
    ratio: float | None
    threshold: float
    over_threshold: bool | None


class Source(ResponseModel):
    """Where numbers come from and how to get them again."""

    numbers: str
    source: str
    again: str


class Evidence(ResponseModel):
    """All that is known of one tuned model, for those who must answer for it. Null: not known or not measured."""

    object: Literal["rootstock.evidence"]
    schema_version: Literal[1]
    model: str
    made_at: int
    job_created_at: int
    job_finished_at: int | None
    method: str
    recipe: dict[str, Any]
    seed: int
    compute: Compute
    data: dict[str, Any] | None
    release: ShownRelease | None
    lineage: Lineage
    limits: list[str]
    sources: list[Source]
