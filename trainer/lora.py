"""LoRA on the linear layers of one model for several jobs in one pass, each on its own tokens with its own weights.

`y = x W^T + b + scale * x A^T B^T` (Hu et al. 2021) as one autograd function: the frozen product, the adapters of all
jobs and their gradients. The adapters are applied as grouped products, one group per job; never as one wide masked
product, through which a NaN of one job would reach all. Gradients are added straight into the jobs' vectors. Knows
nothing about optimizers, batches or files.
"""

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from trainer.weights import Weights

GROUP_ALIGNMENT = 8
"""Ranks that the grouped product of a GPU can take are multiples of this (16 bytes of bfloat16)."""


@dataclass(frozen=True, slots=True)
class Site:
    """A linear layer that may carry adapters."""

    name: str  # path in the model, e.g. "model.layers.0.self_attn.q_proj"
    weight: torch.Tensor  # [out, in], frozen
    bias: torch.Tensor | None
    inputs: int
    outputs: int
    unpack: Callable[[], torch.Tensor] | None = None  # where `weight` is packed: what makes the matrix of it

    def dense(self) -> torch.Tensor:
        """The frozen matrix; of a packed weight a new one, to be let go of as soon as it was used."""
        return self.weight if self.unpack is None else self.unpack()

    @property
    def names(self) -> tuple[str, str]:
        """What a PEFT file calls the two matrices."""
        return f"base_model.model.{self.name}.lora_A.weight", f"base_model.model.{self.name}.lora_B.weight"


class Slot:
    """One job's adapter: its vectors, and the copy of the weights that the layers read (`scale` is in its B).

    All A lie before all B in a vector, so that what concerns only the B is one operation.
    """

    def __init__(
        self,
        sites: Sequence[Site],
        rank: int,
        scale: float,
        rslora: bool,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        shapes: dict[str, tuple[int, int]] = {site.names[0]: (rank, site.inputs) for site in sites}
        shapes |= {site.names[1]: (site.outputs, rank) for site in sites}
        self.rank, self.scale, self.rslora = rank, scale, rslora
        self.sites = frozenset(site.name for site in sites)
        self.weights = Weights(shapes, device)
        self._first_b = sum(rank * site.inputs for site in sites)
        self.work = torch.zeros(self.weights.size, device=device, dtype=dtype)

    def initialise(self, seed: int) -> None:
        """A as PEFT draws it (uniform within `1/sqrt(inputs)`), B zero; a function of the seed alone."""
        generator = torch.Generator().manual_seed(seed)
        fresh = {}
        for name, shape in self.weights.shapes.items():
            if ".lora_A." in name:
                bound = 1 / math.sqrt(shape[1])
                fresh[name] = torch.empty(shape).uniform_(-bound, bound, generator=generator)
        self.weights.put(fresh)
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Show the layers the weights as they are now."""
        self.work[: self._first_b].copy_(self.weights.master[: self._first_b])
        torch.mul(self.weights.master[self._first_b :], self.scale, out=self.work[self._first_b :])

    @torch.no_grad()
    def finish_gradient(self) -> None:
        """The layers saw B times scale: the chain rule for what they added to B's gradient. Once per step."""
        self.weights.gradient[self._first_b :].mul_(self.scale)


@dataclass(frozen=True, slots=True)
class Span:
    """Whose tokens `[start, end)` of the packed row are."""

    slot: Slot
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Group:
    """Jobs of one rank whose tokens follow one another, for one grouped product per matrix."""

    start: int
    end: int
    offsets: torch.Tensor  # int32 [jobs]: where each one's tokens end, counted from `start`
    a: Mapping[str, torch.Tensor]  # site -> [jobs, rank, in]
    b: Mapping[str, torch.Tensor]  # site -> [jobs, out, rank]
    a_gradient: Mapping[str, torch.Tensor]
    b_gradient: Mapping[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Plan:
    """How the layers treat the tokens of one pass: some jobs one by one, others grouped, the rest without adapter."""

    spans: Sequence["SpanViews"]
    groups: Sequence[Group] = ()


@dataclass(frozen=True, slots=True)
class SpanViews:
    """A span with its matrices by site."""

    start: int
    end: int
    a: Mapping[str, torch.Tensor]
    b: Mapping[str, torch.Tensor]
    a_gradient: Mapping[str, torch.Tensor]
    b_gradient: Mapping[str, torch.Tensor]


class Adapters:
    """The adapters inside a model. Without a plan the model computes exactly what it computed before."""

    def __init__(self, model: Any, sites: Mapping[str, Site]) -> None:
        self._model = model
        self._sites = sites
        self._plan: Plan | None = None
        self._embedding_hook: Any = None
        self._before: dict[str, Any] = {}  # forward functions that somebody else put there

    def install(self) -> None:
        """Take the place of the layers' forward functions."""
        for name, site in self._sites.items():
            layer = self._model.get_submodule(name)
            self._before[name] = vars(layer).get("forward")
            layer.forward = functools.partial(self._forward, site, layer.forward)
        # Activations carry gradient from the first layer on, though no weight of the model does.
        self._embedding_hook = self._model.get_input_embeddings().register_forward_hook(self._mark)

    def remove(self) -> None:
        """Leave the model as it was."""
        for name in self._sites:
            layer, before = self._model.get_submodule(name), self._before[name]
            if before is None:
                del layer.forward
            else:
                layer.forward = before
        self._embedding_hook.remove()

    @contextlib.contextmanager
    def planned(self, plan: Plan) -> Iterator[None]:
        """Passes inside the block treat their tokens as `plan` says."""
        self._plan = plan
        try:
            yield
        finally:
            self._plan = None

    def _mark(self, _module: Any, _inputs: Any, output: torch.Tensor) -> None:
        if self._plan is not None and torch.is_grad_enabled():
            output.requires_grad_(True)

    def _forward(self, site: Site, plain: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        if self._plan is None:
            return plain(x)
        out: torch.Tensor = _Linear.apply(x.flatten(0, -2), site, self._plan)  # type: ignore[no-untyped-call]
        return out.view(*x.shape[:-1], site.outputs)


class _Linear(torch.autograd.Function):
    """A frozen linear layer with every job's adapter on its own tokens; `x` is `[tokens, in]`."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, site: Site, plan: Plan) -> torch.Tensor:
        name = site.name
        y = functional.linear(x, site.dense(), site.bias)
        small = []
        for span in plan.spans:
            if name in span.a:
                h = x[span.start : span.end] @ span.a[name].t()
                y[span.start : span.end].addmm_(h, span.b[name].t())
                small.append(h)
        for group in plan.groups:
            h = functional.grouped_mm(x[group.start : group.end], group.a[name].transpose(1, 2), offs=group.offsets)
            # `add_` and not `+=`, which would copy the slice onto itself once more.
            y[group.start : group.end].add_(functional.grouped_mm(h, group.b[name].transpose(1, 2), offs=group.offsets))
            small.append(h)
        ctx.save_for_backward(x, *small)
        ctx.site, ctx.plan = site, plan
        return y

    @staticmethod
    def backward(ctx: Any, dy: torch.Tensor) -> tuple[torch.Tensor | None, None, None]:
        site, plan = ctx.site, ctx.plan
        name = site.name
        x, *small = ctx.saved_tensors
        wanted = ctx.needs_input_grad[0]
        dx = dy @ site.dense() if wanted else None
        hidden = iter(small)
        for span in plan.spans:
            if name not in span.a:
                continue
            rows, h = slice(span.start, span.end), next(hidden)
            g = dy[rows] @ span.b[name]
            _accumulate(span.a_gradient[name], g.t(), x[rows])
            _accumulate(span.b_gradient[name], dy[rows].t(), h)
            if dx is not None:
                dx[rows].addmm_(g, span.a[name])
        for group in plan.groups:
            rows, h = slice(group.start, group.end), next(hidden)
            ours = dy[rows].contiguous()
            g = functional.grouped_mm(ours, group.b[name], offs=group.offsets)
            group.a_gradient[name].add_(functional.grouped_mm(g.t(), x[rows], offs=group.offsets))
            group.b_gradient[name].add_(functional.grouped_mm(ours.t(), h, offs=group.offsets))
            if dx is not None:
                dx[rows].add_(functional.grouped_mm(g, group.a[name], offs=group.offsets))
        return dx, None, None


def _accumulate(gradient: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    if gradient.dtype is left.dtype:
        gradient.addmm_(left, right)
    else:
        gradient.add_(left @ right)
