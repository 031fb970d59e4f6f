"""Helm's own engine on our chart: lint it, render it, or hear why values are refused. Knows nothing about the chart.

Helm has no "template" in this package, but an installation against a cluster that only remembers leaves the rendered
documents in Helm's record of the release.
"""

import asyncio
import sys
from pathlib import Path
from typing import Any

import helm_sdkpy
import yaml

from scripts.chart import cluster

CHART = Path(__file__).resolve().parents[2] / "helm"


class Refused(Exception):
    """Helm would not render the chart; the text is Helm's."""


def lint() -> dict[str, Any]:
    """What `helm lint` says about the chart with its default values."""
    with cluster.serve() as (_, kubeconfig):
        configuration = helm_sdkpy.Configuration(namespace="tuning", kubeconfig=kubeconfig)
        found: dict[str, Any] = asyncio.run(helm_sdkpy.Lint(configuration).run(str(CHART)))
        return found


def render(values: dict[str, Any], *, release: str = "demo") -> tuple[list[dict[str, Any]], str]:
    """The documents of the chart, hooks included, and its notes. Raises `Refused` with Helm's reason."""
    with cluster.serve() as (remembered, kubeconfig):
        configuration = helm_sdkpy.Configuration(namespace="tuning", kubeconfig=kubeconfig)
        try:
            asyncio.run(
                helm_sdkpy.Install(configuration).run(release, str(CHART), values=values, wait=False, timeout=3)
            )
        except helm_sdkpy.InstallError as error:
            # A hook's job never completes here. By then everything has been rendered.
            if not remembered.releases:
                raise Refused(str(error)) from error
        record = remembered.releases[0]
    texts = [record["manifest"], *(hook["manifest"] for hook in record.get("hooks") or [])]
    documents = [document for text in texts for document in yaml.safe_load_all(text) if document]
    return documents, record["info"].get("notes", "")


if __name__ == "__main__":
    chosen = yaml.safe_load(Path(sys.argv[1]).read_text(encoding="utf-8")) if len(sys.argv) > 1 else {}
    print(yaml.safe_dump_all(render(chosen)[0], sort_keys=False), end="")
