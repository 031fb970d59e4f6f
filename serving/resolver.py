"""Our plugin inside vLLM: a model name it does not know is looked up in the store as an adapter id.

vLLM loads it by the entry point `rootstock` of group `vllm.general_plugins`, in each of its processes. An unknown or
unfit adapter answers 404 there, a store that is away 503. Knows nothing about public model names or users.
"""

import asyncio
import hashlib
import logging
from concurrent.futures import ThreadPoolExecutor

from vllm.exceptions import RetryableRequestError
from vllm.lora.request import LoRARequest
from vllm.lora.resolver import LoRAResolver, LoRAResolverRegistry

from rootstock import ids, telemetry
from rootstock.errors import AdapterInvalid, ObjectNotFound, StoreError
from serving import place
from serving.place import Place
from serving.processor import allow_amx

log = logging.getLogger(__name__)

_DOWNLOADS_AT_ONCE = 8


def register() -> None:
    """Put our resolver into vLLM's registry; called by vLLM at the start of each of its processes."""
    here = place.of_this_process()
    telemetry.configure_logging(here.settings, "vllm")
    for ours in ("rootstock", "serving"):
        # A library that vLLM imports later raises the root's level to "error".
        logging.getLogger(ours).setLevel(here.settings.log_level.upper())
    allow_amx()
    LoRAResolverRegistry.register_resolver("rootstock", StoreResolver(here))


class StoreResolver(LoRAResolver):  # type: ignore[misc]  # vllm is not in the environment that checks types
    """Answers vLLM's question "which adapter is this?" from the store."""

    def __init__(self, here: Place) -> None:
        self._place = here
        self._threads = ThreadPoolExecutor(_DOWNLOADS_AT_ONCE, thread_name_prefix="adapter")

    async def resolve_lora(self, base_model_name: str, lora_name: str) -> LoRARequest | None:
        """The adapter's place on disk, or `None` (vLLM answers 404). Never blocks the event loop."""
        if not ids.is_adapter_id(lora_name):
            log.warning("refused: %r is not an adapter id", lora_name[:80])
            return None
        try:
            loop = asyncio.get_running_loop()
            path = await loop.run_in_executor(
                self._threads, lambda: self._place.cache(base_model_name).fetch(lora_name)
            )
        except ObjectNotFound:
            log.warning("adapter %s is not in the store", lora_name)
            return None
        except AdapterInvalid as error:
            log.error("adapter %s refused: %s", lora_name, error)
            return None
        except (StoreError, OSError) as error:
            log.error("adapter %s cannot be fetched at the moment: %s", lora_name, error)
            raise RetryableRequestError(f"Adapter {lora_name} cannot be fetched at the moment.") from error
        except Exception:
            log.exception("adapter %s: looking it up failed", lora_name)
            return None
        # vLLM replaces the number by one of its own; here it only has to be positive and the adapter's.
        number = int.from_bytes(hashlib.sha256(lora_name.encode()).digest()[:6]) + 1
        return LoRARequest(lora_name=lora_name, lora_int_id=number, lora_path=str(path))
