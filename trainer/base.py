"""The base model, loaded once per process: weights, tokenizer, chat template and the facts that others ask for.

Never runs code that came with a model. Knows nothing about jobs or training data.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from rootstock import adapters
from rootstock.errors import ConfigurationError
from trainer.chat import ChatTemplate
from trainer.quantised import four_bits, keep_for_training

log = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

WEIGHTS = ("*.json", "*.safetensors", "*.jinja", "tokenizer*", "merges.txt", "vocab.*", "*.model")


@dataclass(frozen=True, slots=True)
class Base:
    """A base model ready to carry adapters, one at a time. Its own weights are frozen and never change."""

    name: str  # the public name: what adapters, queues and vLLM call it
    model: Any  # a transformers causal LM
    tokenizer: Any
    template: ChatTemplate | None  # None: a base without chat format, for prompt/completion data
    template_sha256: str
    fingerprint: str
    device: torch.device
    dtype: str
    context_tokens: int
    hidden_size: int
    vocabulary: int  # rows of the embedding: larger token ids cannot be shown to the model
    head_is_plain: bool  # logits are head(hidden states) and nothing else, so that only learned positions need any
    family: str  # transformers' model type, e.g. "qwen3"
    quantised: bool = False  # whether its linear layers are kept in four bits

    @property
    def eos_token_id(self) -> int | None:
        """The token that ends a text."""
        found: int | None = self.tokenizer.eos_token_id
        return found

    @property
    def activations(self) -> torch.dtype:
        """The type that the model computes in."""
        return DTYPES[self.dtype]


ONE_THREAD_WIDTH = 512
"""Up to this hidden size threads only wait for each other: with one core busy elsewhere, two threads were measured at a
seventh of the speed of one."""


def load_base(
    source: str,
    *,
    name: str,
    device: str = "auto",
    dtype: str = "auto",
    threads: int = 0,
    context_tokens: int = 0,
    quantised: bool = False,
) -> Base:
    """Load a Hugging Face folder or hub id. `context_tokens` 0: what the model's config says.

    `quantised`: all linear layers but the head in NF4 with double quantisation (Dettmers et al. 2023), about 4.1 bits
    a weight; the model still computes in `dtype`.

    Example: `load_base("examples/base/rootstock-tiny", name="rootstock-tiny")`.
    Raises `ConfigurationError` with a sentence when it cannot be used.
    """
    transformers_logging.disable_progress_bar()
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    elif device == "cuda" and not torch.cuda.is_available():
        raise ConfigurationError("ROOTSTOCK_TRAINER_DEVICE is cuda, but torch finds no CUDA device. Use cpu or auto.")
    if dtype == "auto":
        dtype = "bfloat16" if device == "cuda" else "float32"
    folder = folder_of(source)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=DTYPES[dtype],
            attn_implementation="sdpa",
            use_safetensors=True,
            **(four_bits(DTYPES[dtype], device) if quantised else {}),
        )
    except (OSError, ValueError, ImportError) as error:
        raise ConfigurationError(f"The base model at {source} cannot be loaded: {error}") from error
    if not tokenizer.is_fast:
        raise ConfigurationError(f"The base model at {source} has no fast tokenizer, which loss masks need.")
    model.requires_grad_(False).eval()
    if quantised:
        keep_for_training(model)
    else:
        model.to(device)
    text = model.config.get_text_config()
    if getattr(text, "attn_logit_softcapping", None):
        model.set_attn_implementation("eager")  # SDPA leaves the cap out, without a word
    if threads or text.hidden_size <= ONE_THREAD_WIDTH:
        torch.set_num_threads(threads or 1)
    source_of_template = tokenizer.get_chat_template() if tokenizer.chat_template else ""
    return Base(
        name=name,
        model=model,
        tokenizer=tokenizer,
        template=ChatTemplate(source_of_template, tokenizer.special_tokens_map, _end_tokens(tokenizer, model))
        if source_of_template
        else None,
        template_sha256=adapters.template_sha256(source_of_template),
        fingerprint=adapters.base_fingerprint(folder),
        device=torch.device(device),
        dtype=dtype,
        context_tokens=context_tokens or getattr(text, "max_position_embeddings", None) or 4096,
        hidden_size=text.hidden_size,
        vocabulary=model.get_input_embeddings().weight.shape[0],
        head_is_plain=_head_is_plain(model),
        family=text.model_type,
        quantised=quantised,
    )


def folder_of(source: str) -> Path:
    """The folder of a base model named by folder or hub id, fetched when needed. Raises `ConfigurationError`."""
    if Path(source).is_dir():
        return Path(source)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(source, allow_patterns=list(WEIGHTS)))
    except (OSError, HFValidationError, HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise ConfigurationError(
            f"The base model {source!r} is no folder here and cannot be had from the hub: {error}"
        ) from error


def _end_tokens(tokenizer: Any, model: Any) -> list[str]:
    """The strings at which vLLM stops: it takes the ids from the generation config, and the tokenizer's own."""
    configured = getattr(model.generation_config, "eos_token_id", None)
    ids = {tokenizer.eos_token_id, *(configured if isinstance(configured, list) else [configured])} - {None}
    return [tokenizer.convert_ids_to_tokens(token) for token in sorted(ids)]


@torch.no_grad()
def _head_is_plain(model: Any) -> bool:
    """Whether head(body) are the model's logits: some families scale or cap them, which no attribute tells."""
    ids = torch.arange(1, 9, device=model.device).unsqueeze(0)
    body, head = model.get_decoder(), model.get_output_embeddings()
    if body is None or head is None or body is model:
        return False
    ours = head(body(input_ids=ids, use_cache=False).last_hidden_state)
    same = torch.equal(ours, model(input_ids=ids, use_cache=False).logits)
    if not same:
        log.info("this model changes its logits behind the head; all positions are computed")
    return same
