"""Who hears of a job, who may use its model, what is kept of its answers: the real processes, the official SDK."""

import os
import subprocess
import sys

import pytest
from openai import NotFoundError, OpenAI, PermissionDeniedError

from tests.acceptance.conftest import ROOT, Stack, finished, rows, small_job, wait_for
from tests.receiver import Receiver

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(600)]


def guest_of(stack: Stack, *options: str) -> OpenAI:
    """A client whose key an operator made on the command line."""
    command = [sys.executable, "-m", "rootstock", "keys", "create", "guest", "--data-dir", str(stack.data_dir)]
    done = subprocess.run([*command, *options], cwd=ROOT, env=os.environ, capture_output=True, text=True, check=True)
    return OpenAI(base_url=stack.url, api_key=done.stdout.strip(), max_retries=3)


def test_a_model_is_announced_shared_and_its_answers_are_kept(stack: Stack, client: OpenAI) -> None:
    guest = guest_of(stack, "--project", "proj_guest")
    member = guest_of(stack, "--role", "member")
    question = rows("tickets-heldout.jsonl", 1)[0]["messages"][:-1]
    with Receiver().running() as receiver:
        hook = client.webhooks.create(
            url=receiver.url, name="ci", event_types=["fine_tuning.job.succeeded", "fine_tuning.job.failed"]
        )
        job = finished(client, small_job(client, count=16, epochs=1).id)
        wait_for(lambda: receiver.requests, 30, "the webhook")
        client.webhooks.delete(hook.id)
    headers, body = receiver.requests[0]
    event = OpenAI(api_key="x", webhook_secret=hook.signing_secret).webhooks.unwrap(body.decode(), headers)
    assert (event.type, event.data.id) == ("fine_tuning.job.succeeded", job.id)
    name = job.fine_tuned_model

    with pytest.raises(NotFoundError):
        guest.chat.completions.create(model=name, messages=question, max_tokens=4)
    (permission,) = client.fine_tuning.checkpoints.permissions.create(name, project_ids=["proj_guest"])
    assert guest.chat.completions.create(model=name, messages=question, max_tokens=4).model == name
    for stranger in (guest, member):
        with pytest.raises(PermissionDeniedError):
            stranger.models.delete(name)

    asked = {"model": name, "messages": question, "max_tokens": 12, "temperature": 0, "store": True}
    whole = guest.chat.completions.create(**asked, metadata={"run": "whole"})
    pieces = list(guest.chat.completions.create(**asked, stream=True, metadata={"run": "stream"}))
    kept = {(one.metadata or {})["run"]: one for one in guest.chat.completions.list(model=name)}
    assert kept["whole"].id == whole.id and kept["stream"].id == pieces[0].id
    assert kept["whole"].choices == whole.choices
    text = "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
    assert kept["stream"].choices[0].message.content == text and kept["stream"].usage.completion_tokens > 0
    assert [message.content for message in guest.chat.completions.messages.list(whole.id)] == [
        message["content"] for message in question
    ]
    assert list(client.chat.completions.list()) == []

    client.fine_tuning.checkpoints.permissions.delete(permission.id, fine_tuned_model_checkpoint=name)
    with pytest.raises(NotFoundError):
        guest.chat.completions.create(model=name, messages=question, max_tokens=4)
    assert client.models.delete(name).deleted
    with pytest.raises(NotFoundError):
        client.chat.completions.create(model=name, messages=question, max_tokens=4)
