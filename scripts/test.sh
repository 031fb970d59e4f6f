#!/usr/bin/env bash
# The whole suite in one pytest run, so that its closing line counts everything.
#
#   scripts/test.sh            all levels
#   scripts/test.sh unit       no services, no processes, seconds
#   scripts/test.sh ... -k x   what follows goes to pytest
#
# Unit tests are spread over two workers. Integration and acceptance tests start real processes and spend much of
# their time waiting for them: scripts/pytest_levels.py gives each worker one row of them, after the unit tests. More
# vLLM servers at once would starve each other on a small machine.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."

select=()
if [ "${1:-}" = unit ]; then
  select=(-m "not integration and not acceptance and not gpu")
  shift
fi

# Nothing here may look for a model or a metric on the network: what a test needs, it makes.
export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1
export TOKENIZERS_PARALLELISM=false  # tokenizers warns when a process that used it forks

PYTHONPATH="scripts${PYTHONPATH:+:$PYTHONPATH}" exec .venv/bin/python -m pytest \
  -p pytest_levels -n "${ROOTSTOCK_TEST_WORKERS:-2}" --dist loadgroup --no-loadscope-reorder "${select[@]}" "$@"
