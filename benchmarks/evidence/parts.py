"""The measurements, each a function of the ground that returns plain numbers; what they show is told by `page`."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from benchmarks.evidence import tickets
from benchmarks.evidence.ground import Clock, Ground, Held, Quiet, Tune, Wish, above_floor, verdict
from trainer import loop, recipe
from trainer.full import FullEngine
from trainer.sampling import InProcess

Numbers = dict[str, Any]
UNSEEN = 0.4
"""The share of wordings and values of the held-out tickets that no training ticket has."""

EPOCHS = {"n_epochs": 3, "batch_size": 2}


def schema(ground: Ground, quick: bool) -> Numbers:
    """Schema adherence of the base and of tunes on ever more examples."""
    held_count = 40 if quick else 200
    sizes = (50, 100) if quick else (50, 100, 200, 400)
    pool = tickets.draw(max(sizes), "schema")
    held_lines = tickets.lines(tickets.draw(held_count, "schema held out", UNSEEN, pool))
    held = Held.of(ground, tickets.lines(pool), held_lines)
    with ground.engine() as engine:
        before = ground.answers(engine, held.questions, None, held.max_tokens)
        rows = [{"examples": 0, "adherence": held.adherence(before), "fields": held.score(before), "cpu_seconds": 0.0}]
        for size in sizes:
            clock = Clock()
            (tune,) = ground.train(engine, [Wish(tickets.lines(pool[:size]), seed=1, asked=EPOCHS)])
            seconds = clock.seconds
            answers = ground.answers(engine, held.questions, tune.adapter, held.max_tokens)
            rows.append(
                {
                    "examples": size,
                    "adherence": held.adherence(answers),
                    "fields": held.score(answers),
                    "cpu_seconds": seconds,
                }
            )
    for row in rows:
        # The rule of three: of n answers without a failure, up to 3 in n may fail all the same.
        failures = round((1 - row["adherence"]) * held_count)
        row["failures"] = failures
        row["broken_calls_a_million"] = round(1e6 * failures / held_count) if failures else None
    return {"held_out": held_count, "rows": rows, "undetected_share": 3 / held_count}


def lora_or_full(ground: Ground, quick: bool) -> Numbers:
    """The same tickets learned by an adapter and by all weights: what it is worth and what it costs."""
    count = 60 if quick else 320
    training = tickets.draw(count, "lora or full")
    held_lines = tickets.lines(tickets.draw(40 if quick else 200, "lora or full held out", UNSEEN, training))
    lines = tickets.lines(training)
    held = Held.of(ground, lines, held_lines)
    found: Numbers = {"examples": count, "held_out": len(held_lines)}
    with ground.engine() as engine:
        clock = Clock()
        (tune,) = ground.train(engine, [Wish(lines, seed=1, asked=EPOCHS)])
        seconds = clock.seconds
        answers = ground.answers(engine, held.questions, tune.adapter, held.max_tokens)
    found["lora"] = _cost(tune.adapter, seconds) | {"fields": held.score(answers), "adherence": held.adherence(answers)}
    best: Numbers = {}
    for multiplier in (1, 3):
        full = _full(ground, lines, held, multiplier)
        best = max(best, full, key=lambda one: one.get("fields", -1.0))
    found["full"] = best
    return found


def _full(ground: Ground, lines: list[tickets.Line], held: Held, multiplier: float) -> Numbers:
    folder = ground.new_folder()
    own = ground.encode(lines)
    base = ground.base
    facts = recipe.Facts(own.examples, base.hidden_size, base.context_tokens, base.dtype, max_rank=64)
    asked = EPOCHS | {"type": "full", "learning_rate_multiplier": multiplier}
    chosen = recipe.resolve(asked, facts, seed=1)
    with FullEngine(base) as engine:
        clock = Clock()
        result = loop.train(chosen, engine, own, None, folder, Quiet(), token_budget=8192)
        seconds = clock.seconds
        assert result.final is not None
        trained = load_file(result.final.adapter / "model.safetensors")
        kept = {name: value.detach().clone() for name, value in base.model.state_dict().items()}
        base.model.load_state_dict({name: trained.get(name, value) for name, value in kept.items()})
        prompts = ground.prompts(held.questions)
        sampler = InProcess(base, engine)
        drawn = sampler.sample(None, prompts, count=1, max_tokens=held.max_tokens, seed=0, greedy=True)
        base.model.load_state_dict(kept)
    answers = [one.text.strip() for (one,) in drawn]
    numbers = {"fields": held.score(answers), "adherence": held.adherence(answers), "multiplier": multiplier}
    return _cost(result.final.adapter, seconds) | numbers


def _cost(folder: Path, seconds: float) -> Numbers:
    (file,) = folder.glob("*.safetensors")
    parameters = sum(math.prod(tensor.shape) for tensor in load_file(file).values())
    # Each trained number is kept in float32 with its gradient and two moments.
    return {
        "cpu_seconds": seconds,
        "bytes": file.stat().st_size,
        "parameters": parameters,
        "state_bytes": 16 * parameters,
    }


def clean_or_noisy(ground: Ground, quick: bool) -> Numbers:
    """Few clean examples against ten times as many of which half are wrong in one of five ways."""
    few, many = (50, 200) if quick else (500, 5000)
    share = 0.5
    pool = tickets.draw(many, "noisy")
    held_lines = tickets.lines(tickets.draw(40 if quick else 200, "noisy held out", UNSEEN, pool))
    clean = tickets.lines(pool[:few])
    noisy = tickets.noisy(tickets.lines(pool), share, "noise")
    held = Held.of(ground, clean, held_lines)
    sides = {
        "clean": Wish(clean, seed=1, asked={"n_epochs": 3, "batch_size": 4}),
        "noisy": Wish(noisy, seed=1, asked={"n_epochs": 1, "batch_size": 4}),
        "noisy_few": Wish(noisy[:few], seed=1, asked={"n_epochs": 3, "batch_size": 4}),
    }
    found: Numbers = {"share": share, "held_out": len(held_lines), "faults": list(tickets.FAULTS)}
    with ground.engine() as engine:
        for name, wish in sides.items():
            clock = Clock()
            (tune,) = ground.train(engine, [wish])
            seconds = clock.seconds
            answers = ground.answers(engine, held.questions, tune.adapter, held.max_tokens)
            found[name] = {
                "examples": len(wish.lines),
                "epochs": wish.asked["n_epochs"],
                "trained_tokens": tune.result.trained_tokens,
                "cpu_seconds": seconds,
                "fields": held.score(answers),
                "adherence": held.adherence(answers),
            }
    return found


def early_stopping(ground: Ground, quick: bool) -> Numbers:
    """Few clean examples seen often: to the end, stopped by the loss, stopped by the task metric."""
    shape = {"count": 40, "epochs": 20, "rate": 4, "unseen": UNSEEN, "wrong": 0.0}
    return _stopped(ground, quick, shape, lambda some, _: tickets.lines(some))


def early_stopping_labels(ground: Ground, quick: bool) -> Numbers:
    """An easy task of which 3 in 10 labels are wrong, which only learning by heart can get right."""
    shape = {"count": 160, "epochs": 10, "rate": 3, "unseen": 0.0, "wrong": 0.3}
    return _stopped(
        ground, quick, shape, lambda some, seed: tickets.labelled(some, shape["wrong"] if seed else 0, seed)
    )


def _stopped(
    ground: Ground, quick: bool, shape: Numbers, lines: Callable[[list[tickets.Ticket], str], list[tickets.Line]]
) -> Numbers:
    seeds = range(1 if quick else 3)
    asked = {"n_epochs": 4 if quick else shape["epochs"], "batch_size": 4, "learning_rate_multiplier": shape["rate"]}
    ways = {"whole": {}, "loss": {"patience": 3}, "task": {"patience": 3, "stopping_metric": "task"}}
    rows = []
    with ground.engine() as engine:
        wishes, helds = [], []
        for seed in seeds:
            training = tickets.draw(shape["count"], f"early {seed}")
            validation = tickets.draw(40, f"early validation {seed}", shape["unseen"], training)
            held_out = tickets.draw(100, f"early held out {seed}", shape["unseen"], [*training, *validation])
            own, watched = lines(training, f"early {seed}"), lines(validation, f"early validation {seed}")
            helds.append(Held.of(ground, lines(training, ""), lines(held_out, "")))
            for way in ways.values():
                wishes.append(Wish(own, watched, seed, 0.0, asked | way))
        tunes = ground.train(engine, wishes)
        for number, (tune, name) in enumerate(zip(tunes, list(ways) * len(seeds), strict=True)):
            held = helds[number // len(ways)]
            answers = ground.answers(engine, held.questions, tune.adapter, held.max_tokens)
            rows.append({"seed": number // len(ways), "way": name, "score": held.score(answers)} | _ending(tune))
    return {"rows": rows, "patience": 3, **shape}


def _ending(tune: Tune) -> Numbers:
    result = tune.result
    steps = result.history[-1]["total_steps"]
    losses = [one["full_valid_loss"] for one in result.history if one.get("full_valid_loss") is not None]
    return {
        "valid_loss": [min(losses), losses[-1]],
        "steps": len(result.history),
        "of_steps": steps,
        "best_step": result.best_step,
        "trained_tokens": result.trained_tokens,
        "saved_tokens": result.saved_tokens or 0,
    }


def gate(ground: Ground, quick: bool) -> Numbers:
    """The JSON task, and the same tickets with shuffled answers: what the gate says of each, by seed."""
    seeds, count, asked_count = (2 if quick else 20), 80, 40
    clock = Clock()
    with ground.engine() as engine:
        before = ground.suites(engine, None)
        wishes, plans = [], []
        for seed in range(seeds):
            training = tickets.draw(count, f"gate {seed}")
            held_lines = tickets.lines(tickets.draw(asked_count, f"gate held out {seed}", UNSEEN, training))
            lines = tickets.lines(training)
            mixed = tickets.shuffled([*lines, *held_lines], f"gate {seed}")
            ways = {"json": (lines, held_lines), "shuffled": (mixed[:count], mixed[count:])}
            for name, (own, held) in ways.items():
                wishes.append(Wish(own, seed=seed, asked=EPOCHS))
                plans.append((name, Held.of(ground, own, held)))
        tunes = ground.train(engine, wishes)
        rows = [_judged(ground, engine, *plan, tune, before) for plan, tune in zip(plans, tunes, strict=True)]
    return {"rows": rows, "examples": count, "held_out": asked_count, "cpu_seconds": clock.seconds}


def forgetting(ground: Ground, quick: bool) -> Numbers:
    """A narrow set learned far too long, without and with general examples: what is forgotten, what is kept."""
    seeds, count = (1 if quick else 3), 50
    asked = {"n_epochs": 3 if quick else 15, "batch_size": 2}
    multipliers, shares = (5,), (0.0, 0.7)
    clock = Clock()
    with ground.engine() as engine:
        before = ground.suites(engine, None)
        wishes, plans = [], []
        for multiplier in multipliers:
            for seed in range(seeds):
                training = tickets.draw(count, f"forget {seed}")
                lines = tickets.lines(training)
                held_lines = tickets.lines(tickets.draw(60, f"forget held out {seed}", UNSEEN, training))
                for share in shares:
                    more = asked | {"learning_rate_multiplier": multiplier}
                    wishes.append(Wish(lines, seed=seed, share=share, asked=more))
                    plans.append((f"rate x {multiplier}, replay {share:g}", Held.of(ground, lines, held_lines)))
        tunes = ground.train(engine, wishes)
        rows = [_judged(ground, engine, *plan, tune, before) for plan, tune in zip(plans, tunes, strict=True)]
    return {"rows": rows, "examples": count, "epochs": asked["n_epochs"], "cpu_seconds": clock.seconds}


def _judged(ground: Ground, engine: Any, name: str, held: Held, tune: Tune, before: dict[str, list[float]]) -> Numbers:
    wish = tune.wish
    tuned, zero_shot = (ground.answers(engine, held.questions, who, held.max_tokens) for who in (tune.adapter, None))
    few_shot = ground.answers(engine, held.few_shot(wish.lines, wish.seed), None, held.max_tokens)
    after = ground.suites(engine, tune.adapter, above_floor(before))
    found = verdict(held, tuned, zero_shot, few_shot, before, after, wish.seed)
    numbers = found.numbers
    return {
        "way": name,
        "seed": wish.seed,
        "verdict": found.verdict,
        "reasons": [reason.code for reason in found.reasons],
        "fields": numbers["scores"]["tuned"]["mean"],
        "compared_with": numbers["compared_with"],
        "gain": numbers["gain"],
        "suites": {
            one["name"]: [one["before"]["mean"], one["after"]["mean"]] for one in numbers["suites"] if one["after"]
        },
    }


PARTS: dict[str, Callable[[Ground, bool], Numbers]] = {
    "schema": schema,
    "lora_or_full": lora_or_full,
    "clean_or_noisy": clean_or_noisy,
    "early_stopping": early_stopping,
    "early_stopping_labels": early_stopping_labels,
    "gate": gate,
    "forgetting": forgetting,
}
