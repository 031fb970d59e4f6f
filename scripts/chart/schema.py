"""Writes the `settings` part of helm/values.schema.json from the Settings class. Run it with .venv/bin/python -m.

    .venv/bin/python -m scripts.chart.schema

A test fails while the file differs from what this makes of it.
"""

import json
from pathlib import Path
from typing import Any

from rootstock.settings import LORA_RANKS, Settings

FILE = Path(__file__).resolve().parents[2] / "helm" / "values.schema.json"

SET_BY_THE_CHART = {"host", "port", "vllm_host", "vllm_port", "data_dir", "adapter_cache_dir", "vllm_python"}
FROM_SECRETS = {"database_url", "redis_url", "s3_access_key_id", "s3_secret_access_key", "wandb_api_key"}

_LIMITS = ("enum", "minimum", "maximum", "exclusiveMinimum")


def settings_properties() -> dict[str, Any]:
    """JSON schema of every setting that is the user's to choose in a cluster."""
    found = {}
    for name, given in Settings.model_json_schema()["properties"].items():
        if name in SET_BY_THE_CHART | FROM_SECRETS:
            continue
        own = next((choice for choice in given.get("anyOf", []) if choice["type"] != "null"), {}) | given
        found[name] = {"type": own["type"]} | {key: own[key] for key in _LIMITS if key in own}
        if own["type"] == "object":
            found[name]["additionalProperties"] = own["additionalProperties"]
        found[name]["description"] = own["description"]
    # The pods share the bucket, so here there has to be one; the ranks are checked in code.
    found["s3_bucket"]["minLength"] = 1
    found["max_lora_rank"]["enum"] = list(LORA_RANKS)
    return found


def render() -> str:
    """The whole file as it should be."""
    schema = json.loads(FILE.read_text(encoding="utf-8"))
    schema["properties"]["settings"]["properties"] = settings_properties()
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(render(), encoding="utf-8")
