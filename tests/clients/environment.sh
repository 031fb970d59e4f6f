#!/usr/bin/env bash
# Makes a throw-away Python environment for one client, with uv where there is one, else with venv and pip.
#
#   tests/clients/environment.sh FOLDER REQUIREMENT...
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
# shellcheck source=scripts/lib/python.sh
source "$ROOT/scripts/lib/python.sh"
folder="$1"
shift

python="$(find_python ensurepip || find_python)" || { echo "no Python 3.11 or 3.12 found" >&2; exit 1; }
if ! uv="$(find_uv)"; then
  "$python" -m venv "$folder"
  exec "$folder/bin/python" -m pip install --quiet --disable-pip-version-check "$@"
fi
for candidate in "$python" python3 "$ROOT/.venv/bin/python"; do
  if "$candidate" -m pip --version >/dev/null 2>&1; then carry_pip_settings_to_uv "$candidate"; break; fi
done
"$uv" venv --quiet --no-project --python "$python" "$folder"
"$uv" pip install --quiet --python "$folder/bin/python" "$@" && exit
# The CPU build of torch is not on PyPI; uv knows where it is.
case "$*" in *+cpu*) ;; *) exit 1 ;; esac
exec "$uv" pip install --quiet --python "$folder/bin/python" --torch-backend cpu "$@"
