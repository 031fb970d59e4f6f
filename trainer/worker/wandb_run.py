"""A process that writes one Weights & Biases run: JSON lines in, the first one opens it, each other one is a step.

Run as a script by `integrations`, never imported: W&B is the library that may fail, hang or keep threads, and does it
here. Knows nothing about jobs; a run of the same id is gone on with.
"""

import json
import sys
from typing import Any

INIT_SECONDS = 30.0


def main() -> None:
    """Read lines until the end of the run, or of the process that writes them."""
    opening = json.loads(sys.stdin.readline())
    run = _open(opening)
    code = 1  # whoever fed us is gone
    for line in sys.stdin:
        said = json.loads(line)
        if "metrics" in said:
            run.log(said["metrics"], step=said["metrics"]["step"])
        else:
            run.summary.update(said["end"]["summary"])
            code = said["end"]["exit_code"]
    run.finish(exit_code=code)


def _open(opening: dict[str, Any]) -> Any:
    import wandb

    settings = wandb.Settings(
        mode=opening["mode"],
        base_url=opening["base_url"],
        api_key=opening["api_key"],
        root_dir=opening["folder"],
        console="off",
        silent=True,
        disable_git=True,
        disable_code=True,
        init_timeout=INIT_SECONDS,
        x_disable_stats=True,  # what runs on this machine besides is nobody's business
        x_disable_meta=True,
        x_disable_machine_info=True,
    )
    return wandb.init(settings=settings, resume="allow", **opening["run"])


if __name__ == "__main__":
    main()
