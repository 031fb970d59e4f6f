"""Our engine: one job through the product's loop, or several through the packed engine. Runs in `.venv`."""

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.training import drive, measure, work
from benchmarks.training.sides.protocol import Handler, serve


def connect(folder: Path) -> dict[str, Handler]:
    """The handlers of this side. A base is loaded when first asked for and stays, as in the product."""
    from trainer.base import load_base
    from trainer.data import Dataset, epoch_order
    from trainer.recipe import Recipe

    loaded: dict[tuple[str, str], Any] = {}

    class Going:
        """A reporter that lets the run go on."""

        def alive(self) -> None: ...

        def step(self, progress: Any) -> Any:
            from trainer.loop import Verdict

            return Verdict.GO

        def checkpoint(self, saved: Any) -> None: ...

        def handed_back(self, state: Path, step: int) -> None: ...

        def warn(self, key: str, text: str) -> None: ...

    def base_of(model: str, dtype: str) -> Any:
        if (model, dtype) not in loaded:
            loaded[model, dtype] = load_base(str(folder / model), name=model, device="cpu", dtype=dtype, threads=1)
        return loaded[model, dtype]

    def recipe(batch: int, dtype: str) -> Any:
        return Recipe(
            method="supervised",
            n_epochs=1,
            batch_size=batch,
            learning_rate=work.RATE,
            learning_rate_multiplier=1.0,
            rank=work.RANK,
            alpha=work.ALPHA,
            seed=work.SEED,
            max_tokens=2048,
            dtype=dtype,
            warmup_fraction=0.0,
        )

    def single(
        rows: str, count: int, dtype: str = "float32", batch: int = work.BATCH, out: str | None = None
    ) -> dict[str, Any]:
        """One job through `trainer.loop.train`; the clock covers attaching, training and saving the checkpoint."""
        from trainer.engine import PackedEngine
        from trainer.loop import train

        base, chosen = base_of("model", dtype), work.load_rows(folder / f"{rows}.jsonl", count)
        in_order = row_objects(chosen)
        placed: list[Any] = [None] * count  # the loop shuffles; these places make it take the rows as written
        for place, row in zip(epoch_order(count, work.SEED, 0), in_order, strict=True):
            placed[place] = row
        with tempfile.TemporaryDirectory() as scratch, PackedEngine(base) as engine:
            clock = measure.Clock()
            result = train(
                recipe(batch, dtype),
                engine,
                Dataset(tuple(placed), count),
                None,
                Path(scratch),
                Going(),
                start=folder / "model-adapter-0",
            )
            took = clock.read()
            if out and result.final:
                shutil.copytree(result.final.adapter, out)
        losses = [step["train_loss"] for step in result.history]
        return took | {"losses": losses, "tokens": work.real_tokens(chosen)}

    def jobs_of(model: str, rows: str, jobs: int, batch: int, steps: int, dtype: str) -> list[drive.Job]:
        each = batch * steps
        chosen = row_objects(work.load_rows(folder / f"{rows}.jsonl", jobs * each))
        return [
            drive.Job(
                recipe(batch, dtype), folder / f"{model}-adapter-{k % 8}", chosen[k * each : (k + 1) * each], batch
            )
            for k in range(jobs)
        ]

    def several(
        rows: str,
        jobs: int,
        batch: int,
        steps: int,
        how: str = "together",
        share: bool = True,
        dtype: str = "float32",
        products: str | None = None,
    ) -> dict[str, Any]:
        """K jobs through the packed engine; `how` is together or alone."""
        from trainer.engine import PackedEngine

        several = jobs_of("model", rows, jobs, batch, steps, dtype)
        with PackedEngine(base_of("model", dtype), share_prefixes=share, products=products) as engine:
            clock = measure.Clock()
            getattr(drive, how)(engine, several)
            drive.finish(several)
            took = clock.read()
        losses = [loss for job in several for loss in job.losses]
        return took | {"losses": losses, "tokens": sum(len(row.ids) for job in several for row in job.rows)}

    def equality(jobs: int, batch: int, steps: int, products: str | None = None) -> dict[str, Any]:
        """How far adapters from one co-training are from those of the same jobs alone; control: the neighbour's."""
        from trainer.engine import PackedEngine

        pair = [jobs_of("model", "chat", jobs, batch, steps, "float32") for _ in range(2)]
        with PackedEngine(base_of("model", "float32"), products=products) as engine:
            drive.together(engine, pair[0])
            drive.alone(engine, pair[1])
        apart = [drive.difference(a, b) for a, b in zip(*pair, strict=True)]
        swapped = [drive.difference(a, b) for a, b in zip(pair[0], [*pair[1][1:], pair[1][0]], strict=True)]
        return {"relative": max(apart), "control": min(swapped)}

    def ops(jobs: int, batch: int, dtype: str = "bfloat16", products: str = "grouped") -> dict[str, Any]:
        """Operations of one step of all jobs on the deep model, once optimizers have their state."""
        from trainer.engine import PackedEngine

        several = jobs_of("deep", "chat", jobs, batch, 2, dtype)
        with PackedEngine(base_of("deep", dtype), products=products) as engine:
            pairs = [(job, engine.open(job.recipe, job.start)) for job in several]
            drive.one_step(engine, pairs, 0)
            with measure.op_counter() as counter:
                drive.one_step(engine, pairs, 1)
        return {"operations": counter.count, "jobs": jobs}

    return {"train": single, "several": several, "equality": equality, "ops": ops}


def row_objects(rows: Sequence[work.Sample]) -> list[Any]:
    """The trainer's rows."""
    from trainer.data import Row

    return [Row(line, row.ids, row.learn) for line, row in enumerate(rows, 1)]


if __name__ == "__main__":
    serve(connect)
