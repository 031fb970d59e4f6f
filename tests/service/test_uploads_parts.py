"""Parts of an upload that cannot be: none, too large, too many, or of an upload that never was."""

from collections.abc import Callable
from typing import Any

import openai
import pytest

from rootstock import uploads as rules
from tests.service.conftest import Api
from tests.service.test_files import multipart
from tests.service.test_uploads import add, begin, objects


@pytest.mark.parametrize("upload_id", ["None", "..%2Fx", "a b", "é", "%00", "x" * 5000])
def test_ids_that_never_were_are_404(api: Api, upload_id: str):
    body, headers = multipart(("data", "upload", b"x"))
    assert api.post(f"/v1/uploads/{upload_id}/parts", content=body, headers=headers).status_code == 404
    assert api.post(f"/v1/uploads/{upload_id}/complete", json={"part_ids": []}).status_code == 404
    assert api.post(f"/v1/uploads/{upload_id}/cancel").status_code == 404


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ([], "data"),
        ([("file", "upload", b"x")], "file"),
        ([("data", None, b"x")], "data"),
        ([("data", "upload", b"x"), ("data", "upload", b"y")], "data"),
    ],
)
def test_a_part_that_is_none_is_refused_and_leaves_nothing(api: Api, fields: list[Any], param: str):
    body, headers = multipart(*fields)
    answer = api.post(f"/v1/uploads/{begin(api, 5)}/parts", content=body, headers=headers)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert api.post(f"/v1/uploads/{begin(api, 5)}/parts", content=b"x").status_code == 400
    assert objects(api) == []


def test_a_part_that_is_too_large_is_a_413(api: Api, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rules, "MAX_PART_BYTES", 1000)
    upload_id = begin(api, 5000)
    add(api, upload_id, b"x" * 1000)
    with pytest.raises(openai.APIStatusError) as caught:
        add(api, upload_id, b"x" * 1001)
    assert caught.value.status_code == 413 and len(objects(api)) == 1


def test_a_batch_input_has_its_own_limit(make_api: Callable[..., Api]):
    api = make_api(max_batch_file_bytes=10, max_upload_bytes=20)
    assert begin(api, 20) and begin(api, 10, purpose="batch")
    for size, purpose in ((21, "fine-tune"), (11, "batch")):
        with pytest.raises(openai.BadRequestError, match=f"<= {size - 1}"):
            begin(api, size, purpose=purpose)


def test_parts_count_as_uploads(make_api: Callable[..., Api]):
    api = make_api(uploads_per_minute=2)
    upload_id = begin(api, 3)
    add(api, upload_id, b"a")
    add(api, upload_id, b"b")
    with pytest.raises(openai.RateLimitError):
        add(api, upload_id, b"c")
    assert len(objects(api)) == 2


def test_parts_far_beyond_what_was_declared_are_refused_and_removed(api: Api, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rules, "MAX_PART_BYTES", 10)
    upload_id = begin(api, 1)
    add(api, upload_id, b"x" * 10)
    with pytest.raises(openai.BadRequestError, match="far more"):
        add(api, upload_id, b"x" * 3)
    assert len(objects(api)) == 1
