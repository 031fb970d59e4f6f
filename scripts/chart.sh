#!/usr/bin/env bash
# Lints, renders and tests the Helm chart with a real Helm engine, offline.
#
#   scripts/chart.sh                all of it
#   scripts/chart.sh -k probes      arguments go to pytest
#   scripts/chart.sh --show FILE    print the chart rendered with a values file
#
# The engine comes as a Python package that needs Python 3.12 or newer, so it has an environment of its own,
# .venv-chart, made on demand. What it listens to: PYTHON312=/path/to/python3.12, and pip's settings.
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$ROOT"
export HOME="${HOME:-$ROOT/.home}"
export PIP_DISABLE_PIP_VERSION_CHECK=1
# shellcheck source=scripts/lib/python.sh
source scripts/lib/python.sh

venv="$ROOT/.venv-chart"
lock=scripts/chart/requirements.txt

# The first Python of the right age that can make an environment. A name on PATH may be a shim that knows none.
find_python_for_chart() {
  local candidate uv
  uv="$(find_uv || true)"
  for candidate in "${PYTHON312:-}" python3.12 python3.13 python3.14 "$HOME"/.pyenv/versions/3.1[2-9]*/bin/python python3 \
    "${uv:+$("$uv" python find 3.12 2>/dev/null || true)}"; do
    [ -n "$candidate" ] && command -v "$candidate" >/dev/null 2>&1 || continue
    "$candidate" -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 12)) or print(sys.executable)' 2>/dev/null && {
      echo "$candidate"
      return 0
    }
  done
  return 1
}

stamp="$(cksum <"$lock")"
if [ "$(cat "$venv/.rootstock-stamp" 2>/dev/null)" != "$stamp" ]; then
  python="$(find_python_for_chart)" || {
    echo "chart: needs Python 3.12 or newer for the Helm engine and found none (the rest of the project does not)." >&2
    echo "Install one, or name it: PYTHON312=/path/to/python3.12 make chart" >&2
    exit 1
  }
  echo "chart: making .venv-chart with $("$python" --version)"
  "$python" -m venv --clear "$venv"
  "$venv/bin/python" -m pip install --quiet --no-deps --require-hashes -r "$lock"
  echo "$stamp" >"$venv/.rootstock-stamp"
fi

if [ "${1:-}" = --show ]; then
  exec "$venv/bin/python" scripts/chart/engine.py "${@:2}"
fi
exec "$venv/bin/python" -m pytest -c scripts/chart/pytest.ini scripts/chart "$@"
