"""What `rootstock upgrade` shows: plans, progress and results of a Rootstock's base upgrades as tables."""

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from rich.table import Table
from rich.text import Text

from rootstock import ids
from rootstock.cli.exporting import INTERRUPTED, Server
from rootstock.cli.terminal import Lines
from rootstock.telemetry import escaped

PATH = "/rootstock/upgrades"
LOOK_SECONDS = 2.0
_STYLES = {"released": "green", "kept": "yellow", "failed": "red", "skipped": "yellow", "training": "cyan"}


class Screen(Lines):
    """Lines and tables."""

    def table(self, columns: Sequence[str], rows: list[tuple[str, ...]]) -> None:
        """Cells that are states have their colour; long ones are folded."""
        table = Table(*columns)
        for row in rows:
            table.add_row(*(Text(escaped(cell), _STYLES.get(cell, ""), overflow="fold") for cell in row))
        self._console.print(table, soft_wrap=False)


def plan(server: Server, wanted: dict[str, Any]) -> None:
    """Ask for a plan and show it."""
    screen = Screen()
    with server.connect(screen) as remote:
        made = remote.post(PATH, wanted, ids.new("upgrade-"))
    screen.table(
        ("model", "plan", "aliases", "tokens", "steps", "time"),
        [(one["model"], _plan(one), ", ".join(one["aliases"]), *_cost(one["estimate"])) for one in made["models"]],
    )
    tokens, steps, time = _cost(made["total"])
    can = made["counts"].get("waiting", 0)
    screen.say(f"{can} of {len(made['models'])} can be tuned again: {tokens} tokens, {steps} steps, {time}.")
    screen.say(f"Nothing has been started. To do it: rootstock upgrade start {made['id']}")


def list_all(server: Server) -> None:
    """Show every upgrade, newest first."""
    screen = Screen()
    with server.connect(screen) as remote:
        found = list(remote.pages(PATH))
    screen.table(
        ("upgrade", "from", "to", "status", "models"),
        [(one["id"], one["from"], one["to"], one["status"], _counts(one["counts"])) for one in found],
    )


def status(server: Server, upgrade: str) -> None:
    """Show where each model of an upgrade is."""
    screen, found = _retrieve(server, upgrade)
    screen.table(
        ("model", "state", "new job", "remarks"),
        [(one["model"], one["state"], one["new_job"] or "", one["reason"] or "") for one in found["models"]],
    )
    screen.say(f"{found['id']}: {found['status']} ({_counts(found['counts'])})")


def report(server: Server, upgrade: str) -> None:
    """Show old and new side by side, and what became of the aliases."""
    screen, found = _retrieve(server, upgrade)
    rows: list[tuple[str, ...]] = []
    for one in found["models"]:
        both = one["comparison"] or {"old": None, "new": None, "change": None}
        metric = next((side["metric"] for side in (both["new"], both["old"]) if side and side["metric"]), "")
        change = "" if both["change"] is None else f"{both['change']:+.3f}"
        sides = _score(both["old"]), _score(both["new"])
        new = (both["new"] or {}).get("model") or ""
        rows.append((one["model"], new, metric, *sides, change, (both["new"] or {}).get("verdict") or "", one["state"]))
    screen.table(("old model", "new model", "metric", "old", "new", "change", "verdict", "outcome"), rows)
    for one in found["models"]:
        for move in one["moves"]:
            to = f"moved (revision {move['revision']})" if move["moved"] else f"stayed: {move['reason']}"
            screen.say(f"alias {move['alias']}: {to}")
        if one["reason"] is not None:
            screen.say(f"{one['model']}: {one['reason']}")


def start(server: Server, upgrade: str, *, wait: bool) -> int:
    """Start an upgrade and, when asked to, follow it to its end; the exit code."""
    screen = Screen()
    path = f"{PATH}/{quote(upgrade, safe='')}"
    with server.connect(screen) as remote:
        now = remote.post(f"{path}/start", {}, ids.new("upgrade-"))
        seen: dict[str, str] = {}
        try:
            while True:
                for one in now["models"]:
                    if seen.get(one["model"], "waiting") != one["state"]:
                        screen.say(f"{one['model']}: {one['state']}" + (f" ({one['reason']})" if one["reason"] else ""))
                    seen[one["model"]] = one["state"]
                if now["status"] != "running" or not wait:
                    break
                server.sleep(LOOK_SECONDS)
                now = remote.get(path)
        except KeyboardInterrupt:
            screen.say(f"It goes on without you. `rootstock upgrade cancel {upgrade}` would end it.")
            return INTERRUPTED
    screen.say(f"{now['id']}: {now['status']} ({_counts(now['counts'])})")
    return 0


def cancel(server: Server, upgrade: str) -> None:
    """End an upgrade where it is."""
    screen = Screen()
    with server.connect(screen) as remote:
        now = remote.post(f"{PATH}/{quote(upgrade, safe='')}/cancel", {}, ids.new("upgrade-"))
    screen.say(f"{now['id']}: {now['status']} ({_counts(now['counts'])})")


def _retrieve(server: Server, upgrade: str) -> tuple[Screen, dict[str, Any]]:
    screen = Screen()
    with server.connect(screen) as remote:
        return screen, remote.get(f"{PATH}/{quote(upgrade, safe='')}")


def _plan(one: dict[str, Any]) -> str:
    return "tune again" if one["state"] == "waiting" else f"{one['state']}: {one['reason'] or ''}"


def _cost(estimate: dict[str, Any] | None) -> tuple[str, str, str]:
    if estimate is None:
        return "", "", ""
    return f"{estimate['trained_tokens']:,}", f"{estimate['steps']:,}", _time(estimate["seconds"])


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "unknown time"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _score(side: dict[str, Any] | None) -> str:
    if side is None:
        return ""
    if side["score"] is not None:
        return f"{side['score']['mean']:.3f} ({side['score']['low']:.3f} to {side['score']['high']:.3f})"
    return "" if side["valid_loss"] is None else f"loss {side['valid_loss']:.3f}"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{many} {state}" for state, many in sorted(counts.items()))
