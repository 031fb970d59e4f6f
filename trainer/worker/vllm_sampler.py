"""Answers of the policy through vLLM: each version of the adapter is stored, asked, and forgotten again.

Faster than sampling in the process that trains, by far for large bases, and others train meanwhile. Knows nothing about
rewards; what differs between the two ways of computing is corrected where it is learned from (`trainer.reinforce`).
"""

import logging
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

from rootstock import adapters, ids
from rootstock.errors import RootstockError, Unavailable
from rootstock.storage import Store
from trainer.base import Base
from trainer.engine import Engine
from trainer.recipe import Recipe
from trainer.sampling import Sampled

log = logging.getLogger(__name__)

ASKED_AT_ONCE = 16
PLAIN = {
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}
"""The model's own distribution: a base's generation config would narrow it."""


class ViaVllm:
    """Samples from a vLLM that serves the base and finds adapters in the store. `folder` is for files on their way."""

    remote = True

    def __init__(
        self,
        url: str,
        seconds: float,
        store: Store,
        base: Base,
        engine: Engine,
        recipe: Recipe,
        job_id: str,
        folder: Path,
    ) -> None:
        self._url = url.rstrip("/").removesuffix("/v1")
        self._store, self._base, self._engine, self._recipe = store, base, engine, recipe
        self._job_id, self._folder = job_id, folder
        self._client = httpx.Client(timeout=seconds, trust_env=False)

    def close(self) -> None:
        """Let go of the connections."""
        self._client.close()

    def sample(
        self,
        slot: Any,
        prompts: Sequence[tuple[int, ...]],
        *,
        count: int,
        max_tokens: int,
        seed: int,
        greedy: bool = False,
    ) -> list[list[Sampled]]:
        """See `Sampler`. Raises `Unavailable` when vLLM or the store cannot be had now."""
        version = ids.new("lora-")
        try:
            self._store_version(version, slot)

            def ask(numbered: tuple[int, tuple[int, ...]]) -> list[Sampled]:
                number, prompt = numbered
                wish = {"n": count, "max_tokens": max_tokens, "seed": (seed + 7919 * number) % 2**31}
                return self._ask(version, prompt, wish | PLAIN | ({"temperature": 0.0} if greedy else {}))

            with ThreadPoolExecutor(ASKED_AT_ONCE) as pool:
                return list(pool.map(ask, enumerate(prompts)))
        except Unavailable:
            raise
        except RootstockError as error:
            raise Unavailable(error.message) from error
        finally:
            self._forget(version)

    def _store_version(self, version: str, slot: Any) -> None:
        folder = self._folder / version
        targets = self._engine.save(folder, slot, self._recipe, slot.weights.tensors())
        adapters.put_tree(
            self._store,
            version,
            folder,
            base=self._base.name,
            base_sha256=self._base.fingerprint,
            template_sha256=self._base.template_sha256,
            rank=self._recipe.rank,
            alpha=self._recipe.alpha,
            target_modules=targets,
            recipe={"policy_of": self._job_id},
            ephemeral=True,
        )

    def _ask(self, version: str, prompt: tuple[int, ...], wish: dict[str, Any]) -> list[Sampled]:
        body = {"model": version, "prompt": list(prompt), **wish, "logprobs": 0, "return_token_ids": True}
        try:
            reply = self._client.post(f"{self._url}/v1/completions", json=body)
            reply.raise_for_status()
            return [
                Sampled(
                    tuple(choice["token_ids"]), choice["text"], tuple(map(float, choice["logprobs"]["token_logprobs"]))
                )
                for choice in reply.json()["choices"]
            ]
        except (httpx.HTTPError, ValueError, LookupError, TypeError) as error:
            raise Unavailable(f"vLLM did not answer as the policy ({type(error).__name__}: {error})."[:300]) from error

    def _forget(self, version: str) -> None:
        """Out of vLLM first: a version that is asked for once more would be looked for in the store."""
        shutil.rmtree(self._folder / version, ignore_errors=True)
        try:
            self._client.post(f"{self._url}/v1/unload_lora_adapter", json={"lora_name": version})
        except httpx.HTTPError as error:
            log.info("version %s may still be in vLLM's memory: %s", version, error)
        try:
            self._store.delete_prefix(f"adapters/{version}/")
        except RootstockError as error:
            log.warning("version %s is left behind in the store: %s", version, error)
