"""Is the served model the trained one? Its log-probabilities and spellings are asked of vLLM and compared.

vLLM on a CPU cannot give log-probabilities of a prompt beside adapters, so each token is asked for by itself, as the
only one allowed behind what comes before it; the log-probability is the model's own, before that rule. Knows no jobs.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx

from rootstock.adapters.proof import CONVERSATION, Comparison, Proof, compare
from service.replicas import IDENTITY_ADAPTER

AT_ONCE = 8
SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Finding:
    """What came of a comparison: what is wrong, if anything, and the numbers."""

    fault: str | None
    comparison: Comparison | None


def examine(client: httpx.Client, url: str, adapter_id: str, base: str, proof: Proof) -> Finding:
    """Compare the model `adapter_id` at the server `url` with its proof; `base` is the public name of its base.

    Raises `httpx.HTTPError`, or `ValueError` and its kin, when the server cannot be asked or its answers not be read.
    """
    spelled = _spelling(client, url, adapter_id, proof)
    if proof.conversation is not None and spelled != proof.conversation:
        pairs = zip(spelled, proof.conversation, strict=False)
        place = next((number for number, (there, here) in enumerate(pairs, start=1) if there != here), 1)
        return Finding(
            "the server spells a conversation otherwise than the trainer did, so its tokenizer or chat template is "
            f"another one ({len(spelled)} tokens, {len(proof.conversation)} in training, different from {place} on)",
            None,
        )
    if not proof.passages:
        return Finding(None, None)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        served = _log_probs(client, url, adapter_id, proof, pool)
        bare = _log_probs(client, url, _base_name(client, url, base), proof, pool)
    found = compare(proof, served, bare)
    if found.agrees:
        return Finding(None, found)
    return Finding(
        "it answers otherwise than it did in training: its log-probabilities of some tokens are "
        f"{found.distance:.3f} nats off on average, {found.allowed:.3f} are allowed, the untuned model is "
        f"{found.effect:.3f} off. "
        "Its weights or their scaling are not those that were trained",
        found,
    )


def _spelling(client: httpx.Client, url: str, adapter_id: str, proof: Proof) -> list[int]:
    if proof.conversation is None:
        return []
    body = {"model": adapter_id, "messages": CONVERSATION[proof.since :], "add_generation_prompt": True}
    return [int(token) for token in _post(client, f"{url}/tokenize", body)["tokens"]]


def _base_name(client: httpx.Client, url: str, base: str) -> str:
    answer = client.get(f"{url}/v1/models", timeout=SECONDS)
    answer.raise_for_status()
    names = [str(card["id"]) for card in answer.json()["data"]]
    return next((name for name in (IDENTITY_ADAPTER, base) if name in names), names[0])


def _log_probs(client: httpx.Client, url: str, model: str, proof: Proof, pool: ThreadPoolExecutor) -> Sequence[float]:
    def ask(wanted: tuple[list[int], int]) -> float:
        before, token = wanted
        body = {"model": model, "prompt": before, "max_tokens": 1, "temperature": 0, "logprobs": 0}
        answer = _post(client, f"{url}/v1/completions", body | {"allowed_token_ids": [token]})
        return float(answer["choices"][0]["logprobs"]["token_logprobs"][0])

    places = [(passage, position) for passage in proof.passages for position in passage.positions]
    return list(pool.map(ask, [(passage.ids[:position], passage.ids[position]) for passage, position in places]))


def _post(client: httpx.Client, url: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = client.post(url, json=body, timeout=SECONDS)
    answer.raise_for_status()
    value: dict[str, Any] = answer.json()
    return value
