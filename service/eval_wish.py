"""What `POST /v1/evals/{id}/runs` asks for, checked against what there is: items, models, graders, templates.

Writes nothing.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from rootstock import files
from rootstock.datasets.lines import LineSplitter, NotUtf8
from rootstock.errors import FileNotFound, InvalidRequest, InvalidType, InvalidValue, NotFound, Unavailable
from rootstock.evals import criteria, sources
from rootstock.evals.criteria import message_written_out
from rootstock.evals.records import EvalRecord
from rootstock.grading.templates import TemplateError, parse
from rootstock.records import Caller, FileRecord
from service.deps import Parts
from service.gateway import Gateway
from service.wire_eval_runs import CreateRun
from service.wire_eval_sources import FileContent, FileId, Jsonl, StoredCompletions, Template

READ_AT_ONCE_BYTES = 16 * 1024 * 1024
"""Files up to this size are checked before the answer, whole; of larger ones the beginning, the rest by the worker."""

PURPOSE = "evals"


@dataclass(frozen=True, slots=True)
class Wish:
    """A run that can begin."""

    model: str
    data_source: dict[str, Any]  # as it is answered
    file: FileRecord | None
    copies: bool  # its items are rows of ours now, and are to be copied


def checked(parts: Parts, caller: Caller, of: EvalRecord, body: CreateRun) -> Wish:
    """What is asked for. Raises `InvalidRequest` or one of its classes, naming the field, and `Unavailable`."""
    asked = body.data_source
    source = asked.source
    model = "" if isinstance(asked, Jsonl) else asked.model or ""
    _models(parts, caller, of, model)
    data_source = asked.model_dump(exclude_none=True, by_alias=True)
    if not isinstance(asked, Jsonl) and isinstance(asked.input_messages, Template):
        _template(data_source)
    elif "input_messages" in data_source:
        _reference(data_source["input_messages"]["item_reference"])
    elif model and not isinstance(source, StoredCompletions):
        raise InvalidValue(
            "Invalid 'data_source': a 'model' needs the 'input_messages' that it is to answer.",
            param="data_source.input_messages",
            code="missing_required_parameter",
        )
    file = None
    schema = sources.ItemSchema.of(of.data_source_config)
    if isinstance(source, FileContent):
        for place, line in enumerate(source.content):
            schema.check(line.item, f"data_source.source.content[{place}].item")
    elif isinstance(source, FileId):
        file = _file(parts, caller, source.id)
        _lines(parts, file, schema)
    return Wish(model, data_source, file, isinstance(source, StoredCompletions))


def _models(parts: Parts, caller: Caller, of: EvalRecord, model: str) -> None:
    """Every model that will be asked is there."""
    wanted = ({"data_source.model": model} if model else {}) | criteria.models_of(of.testing_criteria)
    if wanted and not parts.upstream.configured:
        raise Unavailable("This deployment serves no models: no vLLM is configured.")
    gateway = Gateway(parts.settings, parts.db, parts.upstream)
    for param, name in wanted.items():
        try:
            gateway.addressee(caller, name)
        except NotFound as error:
            raise InvalidRequest(error.message, param=param, code=error.code) from None


def _template(data_source: dict[str, Any]) -> None:
    """Write its messages out; their texts may name the item, never a sample, which is not there yet."""
    messages = data_source["input_messages"]["template"]
    for place, message in enumerate(messages):
        at = f"data_source.input_messages.template[{place}].content"
        content = message_written_out(message)["content"]
        for part in content if isinstance(content, list) else [content]:
            try:
                template = parse(part["text"])
            except TemplateError as error:
                raise InvalidValue(f"Invalid '{at}': {error}", param=at) from None
            if any(not isinstance(piece, str) and piece.namespace == "sample" for piece in template.parts):
                raise InvalidValue(
                    f"Invalid '{at}': there is no sample before the model is asked. Name 'item.…' only.", param=at
                )
        messages[place] = message_written_out(message)


def _reference(written: str) -> None:
    """It is one path into the item."""
    at = "data_source.input_messages.item_reference"
    try:
        pieces = parse(f"{{{{ {written} }}}}").parts
    except TemplateError as error:
        raise InvalidValue(f"Invalid '{at}': {error}", param=at) from None
    if len(pieces) != 1 or isinstance(pieces[0], str):
        raise InvalidValue(f"Invalid '{at}': name one place in the item, such as 'item.input'.", param=at)


def _file(parts: Parts, caller: Caller, file_id: str) -> FileRecord:
    at = "data_source.source.id"
    try:
        with parts.db.read() as tx:
            record = files.get(tx, caller.project_id, file_id)
    except FileNotFound:
        raise InvalidRequest(f"No such File object: {file_id[:512]}", param=at) from None
    if record.purpose != PURPOSE:
        raise InvalidRequest(
            f"File {record.id} has the purpose '{record.purpose}'; a run needs the purpose '{PURPOSE}'.", param=at
        )
    return record


def _lines(parts: Parts, file: FileRecord, schema: sources.ItemSchema) -> None:
    at = "data_source.source.id"
    whole = file.bytes <= READ_AT_ONCE_BYTES
    lines = lines_of(parts.store.get(file.object_key), parts.settings.max_line_bytes)
    found = 0
    for found, _ in enumerate(sources.of_lines(lines, schema), 1):
        if found > sources.MAX_ITEMS:
            raise InvalidRequest(f"File {file.id} has more than {sources.MAX_ITEMS} items.", param=at)
        if not whole:
            break
    if not found:
        raise InvalidRequest(f"File {file.id} has no items.", param=at)


def lines_of(chunks: Iterable[bytes], max_line_bytes: int) -> Iterator[tuple[int, bytes | None]]:
    """The lines of a file that comes in chunks. Raises `InvalidType` for another encoding than UTF-8."""
    splitter = LineSplitter(max_line_bytes)
    try:
        for chunk in chunks:
            yield from splitter.feed(chunk)
        yield from splitter.finish()
    except NotUtf8:
        raise InvalidType("The file is not UTF-8. Save it as UTF-8.", param="data_source.source.id") from None
