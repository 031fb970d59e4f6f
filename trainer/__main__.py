"""`python -m trainer` (the worker process), `… run RECIPE.yaml` (one run by hand), `… merge` (a model of its own)."""

import argparse
import sys
from pathlib import Path
from typing import Any

from rootstock.errors import AdapterInvalid, ConfigurationError, ExportFailed, JobFailure
from rootstock.settings import Settings

EXAMPLES = """\
examples:
  python -m trainer                                  the worker; configured by ROOTSTOCK_* variables
  python -m trainer run examples/recipes/tiny.yaml   one run: no database, no Redis, no bucket
  python -m trainer run my.yaml --output out/mine    ... with the adapter in a folder of your choice
"""

MERGE_EXAMPLES = """\
examples:
  python -m trainer merge --adapter tuned --out merged
  python -m trainer merge --adapter tuned --base Qwen/Qwen3-0.6B --out merged
  ROOTSTOCK_TRAINER_DEVICE=cpu python -m trainer merge --adapter tuned --out merged   in RAM, for a large base
"""


def main(arguments: list[str] | None = None) -> int:
    """Parse, run, and answer with an exit code; a mistake of the user's is one sentence on stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m trainer",
        description="Trains LoRA adapters: as a worker that waits for jobs, or one recipe by hand.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    run = commands.add_parser(
        "run",
        help="train one adapter from a recipe file",
        description="Train one adapter from a YAML recipe and write it to a folder.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    run.add_argument("recipe", type=Path, help="YAML file; examples/recipes/tiny.yaml explains each key")
    run.add_argument("--output", type=Path, default=None, help="folder for the adapter; default: `output` of the file")
    _add_merge(commands)
    chosen = parser.parse_args(arguments)
    try:
        settings = Settings.from_env()
        # Torch takes seconds to import: help and mistakes should not wait for it.
        if chosen.command == "run":
            from trainer.by_hand import Place, run_recipe

            place = Place(
                base_model=settings.base_model,
                base_name=settings.base_name,
                device=settings.trainer_device,
                dtype=settings.trainer_dtype,
                threads=settings.trainer_threads,
                context_tokens=settings.max_context_tokens,
                max_rank=settings.max_lora_rank,
                token_budget=settings.max_training_tokens,
                max_line_bytes=settings.max_line_bytes,
                runs=settings.data_dir / "runs",
            )
            run_recipe(chosen.recipe, chosen.output, place)
        elif chosen.command == "merge":
            from trainer.merge import merge

            device, threads = settings.trainer_device, settings.trainer_threads
            merged = merge(
                chosen.adapter, chosen.base or settings.base_model, chosen.out, device=device, threads=threads
            )
            print(*merged.lines(), sep="\n")
        else:
            from rootstock.telemetry import configure_logging
            from trainer.worker.process import work

            configure_logging(settings, "trainer")
            work(settings)
    except (ConfigurationError, JobFailure) as error:
        print(f"error: {error.message}", file=sys.stderr)
        return 2
    except (AdapterInvalid, ExportFailed) as error:
        print(f"error: {error.message}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _add_merge(commands: Any) -> None:
    merge = commands.add_parser(
        "merge",
        help="make one model of an exported adapter and its base",
        description="Merge an exported adapter (`rootstock models export`) into its base model, and keep the result "
        "only when it answers as adapter and base do. A full fine-tune gets its base's tokenizer.",
        epilog=MERGE_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    merge.add_argument("--adapter", type=Path, required=True, help="folder of the exported model, with manifest.json")
    merge.add_argument("--base", default=None, help="hub id or folder of its base model; default: ROOTSTOCK_BASE_MODEL")
    merge.add_argument("--out", type=Path, required=True, help="folder for the merged model; a new or an empty one")


if __name__ == "__main__":
    sys.exit(main())
