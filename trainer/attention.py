"""Attention over a packed row: every segment looks at itself and at the segments above it, and at nothing else.

Takes the place of a transformers model's attention function; the model's code stays as it is. On a GPU one
variable-length kernel call per layer, elsewhere one call per segment. Knows nothing about jobs, adapters or losses.
"""

import contextlib
import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn import functional
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from trainer.packing import Packed, Segment

NAME = "rootstock_packed"

try:
    from torch.nn.attention import varlen as _varlen

    varlen_attn: Any = _varlen.varlen_attn
    _VARLEN_OPTIONS = frozenset(inspect.signature(varlen_attn).parameters)
except ImportError:  # a build of torch without it; the segments are then computed one by one
    varlen_attn, _VARLEN_OPTIONS = None, frozenset()


@dataclass(slots=True)
class Layout:
    """What the attention of every layer needs of a packed row; what several layers share is computed once."""

    segments: Sequence[Segment]
    device: torch.device
    _varlen: tuple[Any, ...] | None = None
    _masks: dict[tuple[int, int, int | None], torch.Tensor] = field(default_factory=dict)

    def keys_of(self, segment: Segment) -> int:
        """How many positions the last token of the segment sees."""
        return segment.length + sum(self.segments[number].length for number in segment.above)

    def mask(self, queries: int, keys: int, window: int | None) -> torch.Tensor:
        """Which of `keys` positions the last `queries` of them may see, `[queries, keys]`."""
        found = self._masks.get((queries, keys, window))
        if found is None:
            at = torch.arange(keys - queries, keys, device=self.device).unsqueeze(1)
            seen = torch.arange(keys, device=self.device)
            found = seen <= at
            if window is not None:
                found &= seen > at - window
            self._masks[queries, keys, window] = found
        return found

    def varlen(self) -> tuple[Any, ...]:
        """Where queries and keys end, the longest of each, and where the keys lie (None: where the queries do)."""
        if self._varlen is None:
            queries = [segment.length for segment in self.segments]
            keys = [self.keys_of(segment) for segment in self.segments]
            index = None
            if keys != queries:
                pieces = [
                    torch.arange(self.segments[n].start, self.segments[n].start + self.segments[n].length)
                    for number, segment in enumerate(self.segments)
                    for n in (*segment.above, number)
                ]
                index = torch.cat(pieces).to(self.device, non_blocking=True)
            self._varlen = (_ends(queries, self.device), _ends(keys, self.device), max(queries), max(keys), index)
        return self._varlen


_current: Layout | None = None


@contextlib.contextmanager
def packed(model: Any, row: Packed, device: torch.device) -> Iterator[None]:
    """The model reads packed rows for the length of the block, which must span forward and backward.

    One thread trains in a process, so a plain variable tells the layers what is packed; a context variable would be
    lost in the thread in which autograd computes a checkpointed layer again.
    """
    global _current  # noqa: PLW0603 (see above)
    configs = _configs(model)
    before = [config._attn_implementation for config in configs]
    for config in configs:
        config._attn_implementation = NAME
    _current = Layout(row.segments, device)
    try:
        yield
    finally:
        _current = None
        for config, name in zip(configs, before, strict=True):
            config._attn_implementation = name


def _configs(model: Any) -> list[Any]:
    """The config objects that the attention layers look at: all of the model's own."""
    found = {id(module.config): module.config for module in model.modules() if hasattr(module, "config")}
    return list(found.values())


def _ends(lengths: Sequence[int], device: torch.device) -> torch.Tensor:
    ends = torch.tensor([0, *lengths]).cumsum(0)
    return ends.to(device, torch.int32, non_blocking=True)


def attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention by transformers' interface: `[1, heads, tokens, size]` in, `[1, tokens, heads, size]` out."""
    layout = _current
    assert layout is not None, "a packed model runs inside `packed` only"
    assert dropout == 0.0
    window = sliding_window if sliding_window and sliding_window < max(map(layout.keys_of, layout.segments)) else None
    half = query.dtype in (torch.bfloat16, torch.float16)
    if query.device.type == "cuda" and half and softcap is None and varlen_attn is not None:
        return _all_at_once(layout, query, key, value, scaling, window), None
    if half and query.device.type == "cpu":
        # The backward pass of half-precision attention was measured 2.6 times slower than float32's on a CPU.
        out = _one_by_one(layout, query.float(), key.float(), value.float(), scaling, window, softcap)
        return out.to(query.dtype), None
    return _one_by_one(layout, query, key, value, scaling, window, softcap), None


ALL_ATTENTION_FUNCTIONS.register(NAME, attend)


def _all_at_once(
    layout: Layout,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    queries_end, keys_end, longest_query, longest_key, index = layout.varlen()
    q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    if index is not None:
        k, v = k.index_select(0, index), v.index_select(0, index)
    options: dict[str, Any] = {"scale": scaling}
    if "window_size" in _VARLEN_OPTIONS:
        options["window_size"] = (-1 if window is None else window - 1, 0)  # lower right, as flash attention counts
    else:
        options["is_causal"] = True
    if "enable_gqa" in _VARLEN_OPTIONS:
        options["enable_gqa"] = q.shape[1] != k.shape[1]
    out: torch.Tensor = varlen_attn(
        q.contiguous(), k.contiguous(), v.contiguous(), queries_end, keys_end, longest_query, longest_key, **options
    )
    return out.unsqueeze(0)


def _one_by_one(
    layout: Layout,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None,
    window: int | None,
    softcap: float | None,
) -> torch.Tensor:
    # Splitting has one backward operation; slices would each write a gradient of the whole row.
    lengths = [segment.length for segment in layout.segments]
    queries, keys, values = (tensor.split(lengths, dim=2) for tensor in (query, key, value))
    outs = []
    for number, segment in enumerate(layout.segments):
        q, k, v = queries[number], keys[number], values[number]
        if segment.above:
            seen = (*segment.above, number)
            k, v = torch.cat([keys[n] for n in seen], 2), torch.cat([values[n] for n in seen], 2)
        plain = not segment.above and (window is None or window >= segment.length)
        mask = None if plain else layout.mask(segment.length, k.shape[2], window)
        if softcap is not None:
            outs.append(_capped(q, k, v, layout.mask(segment.length, k.shape[2], window), scaling, softcap))
        else:
            grouped = q.shape[1] != k.shape[1]
            outs.append(
                functional.scaled_dot_product_attention(
                    q, k, v, attn_mask=mask, is_causal=plain, scale=scaling, enable_gqa=grouped
                )
            )
    return torch.cat(outs, 2).transpose(1, 2)


def _capped(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor, scaling: float | None, softcap: float
) -> torch.Tensor:
    """Attention whose scores are bounded by `softcap * tanh(scores / softcap)` (Gemma 2), written out."""
    repeats = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(repeats, 1), v.repeat_interleave(repeats, 1)
    scores = (q @ k.transpose(-2, -1)) * (scaling or q.shape[-1] ** -0.5)
    scores = softcap * torch.tanh(scores / softcap)
    weights = scores.masked_fill(~mask, float("-inf")).softmax(-1, dtype=torch.float32)
    return weights.to(v.dtype) @ v
