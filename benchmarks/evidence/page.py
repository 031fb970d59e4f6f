"""The measurements as a page for people: tables, what was claimed, and whether it held here. Measures nothing."""
# ruff: noqa: E501 (the sentences of a page)

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Numbers = Mapping[str, Any]

INTRO = """# Evidence

What is said of fine-tuning, and what our release gate is for, measured on the small base that comes with the project
(4.2 M parameters, CPU). `make evidence` measures all of it anew and writes this page; nothing here is written by hand. The
numbers of a base this small say whether the machinery does what it should; they are no promise for a large one.

The task is that of the example: support tickets to JSON with five keys. 40 % of the wordings and values in held-out tickets
are in no training ticket. "Fields" is the share of fields that are right, 0 for an answer that is not of the schema.
"""


def write(results: Mapping[str, Numbers]) -> str:
    """The whole page."""
    return "\n".join([INTRO, *(part(name, found) for name, found in results.items())])


def part(name: str, found: Numbers) -> str:
    """One part with its table and where it was measured."""
    place = found["where"]
    foot = (
        f"{found['cpu_seconds']:.0f} s of CPU time; {place['cpu']}, {place['threads']} thread(s), Python {place['python']}, "
        f"torch {place['torch']}, transformers {place['transformers']}; {place['base']}, commit {place['commit']}, "
        f"{place['at']}."
    )
    return "\n".join([_WRITERS[name](found["numbers"]), "", f"<sub>{foot}</sub>", ""])


def _schema(found: Numbers) -> str:
    rows = [
        (
            row["examples"] or "none (the base)",
            f"{row['adherence']:.1%}",
            row["failures"],
            f"{row['fields']:.3f}",
            f"{row['cpu_seconds']:.0f} s",
        )
        for row in found["rows"]
    ]
    last = found["rows"][-1]
    count = found["held_out"]
    rate = (
        f"no failure in {count}: the true rate may still be up to {found['undetected_share']:.1%}"
        if not last["failures"]
        else f"{last['failures']} of {count} failed; of a million calls that would be {last['broken_calls_a_million']:,}"
    )
    held = _mark(last["adherence"] > 0.99)
    return "\n".join(
        [
            "## Schema adherence before and after",
            "",
            "*Claimed: above 99 % after a few hundred examples.*",
            "",
            _table(("examples", "of the schema", f"failures of {count}", "fields", "training"), rows),
            "",
            f"With {last['examples']} examples {last['adherence']:.1%}: {held}. {rate[0].upper()}{rate[1:]}.",
        ]
    )


def _lora_or_full(found: Numbers) -> str:
    lora, full = found["lora"], found["full"]
    names = {"fields": "fields", "adherence": "of the schema"}
    rows = [
        (label, f"{lora[key]:.3f}", f"{full[key]:.3f}", _share(lora[key], full[key])) for key, label in names.items()
    ]
    for key, label, scale in (
        ("cpu_seconds", "CPU seconds of training", 1),
        ("parameters", "trained numbers, thousands", 1e3),
        ("state_bytes", "weights, gradients and moments, MB", 1e6),
        ("bytes", "stored, MB", 1e6),
    ):
        rows.append((label, f"{lora[key] / scale:,.1f}", f"{full[key] / scale:,.1f}", _share(lora[key], full[key])))
    quality, cost = lora["fields"] / max(full["fields"], 1e-9), lora["cpu_seconds"] / full["cpu_seconds"]
    return "\n".join(
        [
            "## LoRA against full fine-tuning",
            "",
            "*Claimed: about 90 % of the quality at about 1 % of the cost.*",
            "",
            _table(
                (f"{found['examples']} examples, {found['held_out']} held out", "LoRA", "full", "LoRA / full"), rows
            ),
            "",
            f"Quality {quality:.0%} of full ({_mark(quality >= 0.9)}); time {cost:.0%} ({_mark(cost <= 0.02)} on a base this "
            "small: the passes through the model are the same, and an adapter of rank 16 is "
            f"{lora['parameters'] / full['parameters']:.0%} of it). Of full fine-tuning the better of two learning rates is "
            f"shown (multiplier {full['multiplier']}).",
        ]
    )


def _clean_or_noisy(found: Numbers) -> str:
    names = {"clean": "clean", "noisy": "noisy", "noisy_few": "noisy, as few"}
    rows = [
        (
            label,
            f"{found[key]['examples']:,}",
            found[key]["epochs"],
            f"{found[key]['trained_tokens']:,}",
            f"{found[key]['cpu_seconds']:.0f} s",
            f"{found[key]['adherence']:.1%}",
            f"{found[key]['fields']:.3f}",
        )
        for key, label in names.items()
    ]
    ahead = found["clean"]["fields"] > found["noisy"]["fields"]
    times = found["noisy"]["cpu_seconds"] / found["clean"]["cpu_seconds"]
    return "\n".join(
        [
            "## Few clean examples against ten times as many noisy ones",
            "",
            "*Claimed: 500 good examples beat 10,000 noisy ones.*",
            "",
            _table(("data", "examples", "epochs", "tokens", "training", "of the schema", "fields"), rows),
            "",
            f"{found['share']:.0%} of the noisy answers are spoilt: {', '.join(found['faults'])}. The clean ones "
            f"{'win' if ahead else 'do not win'}: {_mark(ahead)}; the noisy ones took {times:.1f} times the compute.",
        ]
    )


def _early_stopping(found: Numbers) -> str:
    by = {name: [row for row in found["rows"] if row["way"] == name] for name in ("whole", "loss", "task")}
    labels = {"whole": "not stopped", "loss": "by the validation loss", "task": "by the task metric"}
    rows = []
    for name, some in by.items():
        tokens = sum(row["trained_tokens"] for row in some)
        saved = sum(row["saved_tokens"] for row in some)
        rows.append(
            (
                labels[name],
                " / ".join(f"{row['score']:.3f}" for row in some),
                f"{statistics.fmean(row['score'] for row in some):.3f}",
                " / ".join("{:.2f} to {:.2f}".format(*row["valid_loss"]) for row in some),
                " / ".join(f"{row['steps']} of {row['of_steps']}" for row in some),
                f"{saved / (tokens + saved):.0%}",
            )
        )
    lines = []
    for name in ("loss", "task"):
        pairs = list(zip(by[name], by["whole"], strict=True))
        no_worse = sum(stopped["score"] >= whole["score"] for stopped, whole in pairs)
        lines.append(f"{labels[name]} {no_worse} of {len(pairs)} seeds ({_mark(no_worse == len(pairs))})")
    wrong = found["wrong"]
    head = [
        "## Early stopping",
        "",
        "*Claimed: the chosen checkpoint is no worse than the last one, in all seeds, and training is saved.*",
        "",
    ]
    spoilt = [f"### On a set that it over-fits: what a ticket is about, {wrong:.0%} of the labels wrong", ""]
    metric = "right labels of clean held-out tickets" if wrong else "fields"
    return "\n".join(
        [
            *(spoilt if wrong else head),
            _table(
                ("stopped", f"{metric}, by seed", "mean", "validation loss, best to last", "steps", "tokens saved"),
                rows,
            ),
            "",
            f"{found['count']} examples, {found['epochs']} epochs at {found['rate']} times the usual rate, patience "
            f"{found['patience']}. No worse than the last: {'; '.join(lines)}.",
        ]
    )


def _gate(found: Numbers) -> str:
    groups = {"json": ("the JSON task", "ship"), "shuffled": ("the same tickets, answers shuffled", "hold")}
    rows, told = [], []
    for name, (label, wanted) in groups.items():
        some = [row for row in found["rows"] if row["way"] == name]
        right = sum(row["verdict"] == wanted for row in some)
        told.append(f"{label}: {wanted} in {right} of {len(some)} ({_mark(right >= 0.95 * len(some))})")
        rows.append(
            (
                label,
                _counts(row["verdict"] for row in some),
                _counts(r for row in some for r in row["reasons"]),
                *_gains(some),
            )
        )
    return "\n".join(
        [
            "## The release gate",
            "",
            "*Wanted: shuffled labels are refused in at least 19 of 20 seeds, the JSON task passes in at least 19 of 20.*",
            "",
            _table(("data", "verdicts", "reasons", "fields", "gain over the best baseline"), rows),
            "",
            f"{found['examples']} examples and {found['held_out']} held out for each seed, really trained; the verdict is the "
            f"gate's own, forgetting included. {'; '.join(told)}.",
        ]
    )


def _forgetting(found: Numbers) -> str:
    ways = list(dict.fromkeys(row["way"] for row in found["rows"]))
    names = list(found["rows"][0]["suites"])
    rows = []
    for way in ways:
        some = [row for row in found["rows"] if row["way"] == way]
        means = [statistics.fmean(row["suites"][name][1] for row in some) for name in names]
        fields = f"{statistics.fmean(row['fields'] for row in some):.3f}"
        rows.append((way, _counts(row["verdict"] for row in some), fields, *(f"{mean:.2f}" for mean in means)))
    before = [f"{found['rows'][0]['suites'][name][0]:.2f}" for name in names]
    told = []
    for way in ways:
        some = [row for row in found["rows"] if row["way"] == way]
        bare = way.endswith("replay 0")
        right = sum("forgetting" in row["reasons"] if bare else row["verdict"] == "ship" for row in some)
        told.append(f"{way}: {right} of {len(some)} {'trip it' if bare else 'pass'} ({_mark(right == len(some))})")
    return "\n".join(
        [
            "## Forgetting, and replay",
            "",
            "*Wanted: a narrow tune that is trained far too long trips the gate, and passes with general examples mixed in.*",
            "",
            _table(("", "verdicts", "fields", *names), [("the base", "", "", *before), *rows]),
            "",
            f"{found['examples']} tickets, {found['epochs']} epochs at so many times the usual rate. {'; '.join(told)}.",
        ]
    )


def _gains(some: Sequence[Numbers]) -> tuple[str, str]:
    fields = [row["fields"] for row in some]
    gains = [row["gain"]["mean"] for row in some]
    return f"{min(fields):.2f} to {max(fields):.2f}", f"{min(gains):+.2f} to {max(gains):+.2f}"


def _counts(values: Any) -> str:
    found: dict[str, int] = {}
    for value in values:
        found[value] = found.get(value, 0) + 1
    return ", ".join(f"{value} {count}" for value, count in sorted(found.items())) or "-"


def _share(a: float, b: float) -> str:
    return f"{a / b:.0%}" if b else "-"


def _mark(held: bool) -> str:
    return "held" if held else "**not held**"


def _table(head: Sequence[Any], rows: Sequence[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


_WRITERS: dict[str, Callable[[Numbers], str]] = {
    "schema": _schema,
    "lora_or_full": _lora_or_full,
    "clean_or_noisy": _clean_or_noisy,
    "early_stopping": _early_stopping,
    "early_stopping_labels": _early_stopping,
    "gate": _gate,
    "forgetting": _forgetting,
}
