#!/usr/bin/env bash
# Makes .venv-bench, what `make bench-train` compares the engine with, from requirements/bench.lock.txt. Needs .venv.
# Does nothing when the lock files have not changed.
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$ROOT"
# shellcheck source=scripts/lib/python.sh
source scripts/lib/python.sh

stamp="$(cat requirements/bench.lock.txt requirements/torch-cpu.lock.txt | sha256sum | cut -d' ' -f1)"
if [ "$(cat .venv-bench/.rootstock-stamp 2>/dev/null)" = "$stamp" ]; then exit 0; fi
echo "install: .venv-bench, a minute or two"
rm -rf .venv-bench

torch="$(grep '^torch==' requirements/torch-cpu.lock.txt)"
if uv="$(find_uv)"; then
  carry_pip_settings_to_uv "$(find_python pip || echo .venv/bin/python)"
  export UV_INDEX_STRATEGY="${UV_INDEX_STRATEGY:-unsafe-best-match}"
  "$uv" venv --quiet --no-project --python .venv/bin/python .venv-bench
  install=("$uv" pip install --quiet --python .venv-bench/bin/python --no-deps)
  "${install[@]}" "$torch" || "${install[@]}" --torch-backend cpu "$torch"
else
  .venv/bin/python -m venv .venv-bench
  install=(.venv-bench/bin/python -m pip install --quiet --no-deps)
  "${install[@]}" "$torch"
fi
"${install[@]}" --require-hashes -r requirements/bench.lock.txt
echo "$stamp" >.venv-bench/.rootstock-stamp
