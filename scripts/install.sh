#!/usr/bin/env bash
# Makes the two virtual environments from the committed lock files:
#
#   .venv        service, trainer, tests and tools, with this project installed editable
#   .venv-vllm   private to the vLLM process, plus this project (for its adapter plugin)
#
#   scripts/install.sh          both
#   scripts/install.sh main     only .venv: enough for `make check` and the unit tests
#
# Does nothing, in milliseconds, when the lock files have not changed. What it listens to:
#   PYTHON=/path/to/python3.11      which interpreter to build on
#   ROOTSTOCK_INSTALLER=pip         do not use uv
#   ROOTSTOCK_ACCELERATOR=cpu|cuda  instead of looking for an NVIDIA GPU
# and pip's own settings (files and PIP_* variables), which uv is given too.
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$ROOT"
# A minimal shell may lack these, and uv wants a home for its cache.
export HOME="${HOME:-$ROOT/.home}"
export PIP_DISABLE_PIP_VERSION_CHECK=1
# shellcheck source=scripts/lib/python.sh
source scripts/lib/python.sh

say() { printf 'install: %s\n' "$*"; }
die() {
  printf 'install: %s\n' "$@" >&2
  exit 1
}
# Runs a stage and prints how long it took; its output only if it failed.
stage() {
  local label="$1" started=$SECONDS
  shift
  if "$@" >"$log" 2>&1; then
    say "$label ($((SECONDS - started)) s)"
  else
    cat "$log" >&2
    die "$label: failed"
  fi
}

# ---- what is wanted ----

case "${1:-all}" in
  all) want="main vllm" ;;
  main) want="main" ;;
  *) die "usage: scripts/install.sh [main]" ;;
esac

accelerator="${ROOTSTOCK_ACCELERATOR:-}"
if [ -z "$accelerator" ]; then
  accelerator=cpu
  if command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L 2>/dev/null | grep -q '^GPU'; then accelerator=cuda; fi
fi
case "$accelerator" in cpu | cuda) ;; *) die "ROOTSTOCK_ACCELERATOR must be cpu or cuda, not '$accelerator'" ;; esac

platform="$(uname -s)-$(uname -m)"
if [ "$platform" != Linux-x86_64 ] && [ "$want" != main ]; then
  say "no vLLM build is pinned for $platform: making .venv only (training and the API work, inference needs a vLLM elsewhere)"
  want="main"
fi

venv_of() { if [ "$1" = main ]; then echo "$ROOT/.venv"; else echo "$ROOT/.venv-vllm"; fi; }
locks_of() {
  echo "requirements/$1-$accelerator.lock.txt"
  if [ "$accelerator" = cpu ]; then echo requirements/torch-cpu.lock.txt; fi
}

# Everything that decides what an environment holds. The folder is part of it because an editable
# install and the environment's own scripts name it. Of pyproject.toml, what stands before the settings
# of ruff, mypy and pytest: to change those is no reason to install.
fingerprint_of() {
  local files
  mapfile -t files < <(locks_of "$1")
  { echo "$ROOT"; cat "${files[@]}"; sed '/^\[tool\.ruff\]/,$d' pyproject.toml; } | sha256
}
sha256() { if command -v sha256sum >/dev/null 2>&1; then sha256sum; else shasum -a 256; fi | cut -d' ' -f1; }

todo=""
for name in $want; do
  venv="$(venv_of "$name")"
  if [ -x "$venv/bin/python" ] && [ "$(cat "$venv/.rootstock-stamp" 2>/dev/null)" = "$(fingerprint_of "$name")" ]; then
    continue
  fi
  todo="$todo $name"
done
if [ -z "$todo" ]; then
  exit 0
fi

# ---- with what ----

# One installation at a time: two `make` calls in one checkout would write the same environments.
if command -v flock >/dev/null 2>&1; then
  exec 9>"$ROOT/.install.lock"
  flock -n 9 || { say "another installation is running here, waiting for it"; flock 9; }
fi

log="$(mktemp)"
scratch="$(mktemp -d)"
trap 'rm -rf "$log" "$scratch"' EXIT
began=$SECONDS

python="$(find_python ensurepip || find_python || true)"
uv="$(find_uv || true)"
if [ -z "$python" ]; then
  die "needs Python 3.11 or 3.12 and found neither as python3.11, python3.12 or python3." \
    "Install one (on Debian: python3.11 and python3.11-venv), or name it: PYTHON=/path/to/python3.11 make install"
fi
version="$("$python" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])')"
say "Python $version at $python, $accelerator"

# An environment is kept when it starts, has a supported Python (the one asked for, if one was asked
# for) and what the installer needs: other processes may be running from it.
usable() {
  local have
  have="$("$1/bin/python" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null)" || return 1
  if [ -n "${PYTHON:-}" ] && [ "$have" != "$version" ]; then return 1; fi
  case "$have" in 3.11.* | 3.12.*) ;; *) return 1 ;; esac
  [ -n "$uv" ] || "$1/bin/python" -m pip --version >/dev/null 2>&1
}

# About to be rebuilt together with the environment it lives in.
if [ "$uv" = "$ROOT/.venv/bin/uv" ] && ! usable "$ROOT/.venv"; then uv=""; fi

make_venv() {
  local venv="$1"
  usable "$venv" && return 0
  rm -rf "$venv"
  if [ -n "$uv" ]; then
    "$uv" venv --quiet --no-project --python "$python" "$venv"
  else
    "$python" -m venv "$venv"
  fi
}
if [ -z "$uv" ] && ! "$python" -c 'import ensurepip' 2>/dev/null; then
  die "$python cannot make virtual environments." "Install its venv module (on Debian: python${version%.*}-venv), or install uv."
fi

if [ -z "$uv" ] && [ "${ROOTSTOCK_INSTALLER:-}" != pip ]; then
  stage "made .venv" make_venv "$ROOT/.venv"
  # Ten times faster than pip on these lists. A site whose index has no uv simply goes on with pip.
  if "$ROOT/.venv/bin/python" -m pip install --quiet uv >"$log" 2>&1; then uv="$(find_uv || true)"; fi
fi
if [ -n "$uv" ]; then
  # pip's settings are asked of a Python that has pip; Debian's bare python3 has none.
  for candidate in "$python" python3 python "$ROOT/.venv/bin/python"; do
    if "$candidate" -m pip --version >/dev/null 2>&1; then
      carry_pip_settings_to_uv "$candidate"
      break
    fi
  done
  export UV_INDEX_STRATEGY="${UV_INDEX_STRATEGY:-unsafe-best-match}"
  say "using uv ($("$uv" --version | cut -d' ' -f2))"
else
  say "using pip: slower than uv, several minutes"
fi

# packages VENV ARGS...: one way to say it for both installers.
packages() {
  local venv="$1"
  shift
  if [ -n "$uv" ]; then
    "$uv" pip install --compile-bytecode --python "$venv/bin/python" "$@"
  else
    "$venv/bin/python" -m pip install "$@"
  fi
}

# ---- the stages ----

# torch==2.13.0+cpu is not on PyPI. A site with its own wheel folder or index knows where it is, so its
# settings go first; otherwise uv knows PyTorch's own index, and no index is named in this project.
install_torch_cpu() {
  local venv="$1" requirement
  requirement="$(grep '^torch==' requirements/torch-cpu.lock.txt)"
  if [ "$(uname -s)" != Linux ]; then requirement="${requirement%+cpu}"; fi
  packages "$venv" --no-deps "$requirement" && return 0
  if [ -n "$uv" ]; then
    echo "retrying with PyTorch's own index"
    packages "$venv" --no-deps --torch-backend cpu "$requirement" && return 0
  fi
  echo
  echo "$requirement was not found. It is the CPU build of torch, which PyPI does not carry:"
  echo "set PIP_EXTRA_INDEX_URL to PyTorch's CPU wheel index, or PIP_FIND_LINKS to a folder that holds the wheel."
  return 1
}

# The locks are resolved for Linux x86-64. Elsewhere their versions serve as constraints, and the
# dependencies are looked up anew, for that platform.
install_lock() {
  local name="$1" venv="$2" lock="requirements/$1-$accelerator.lock.txt"
  if [ "$platform" = Linux-x86_64 ]; then
    packages "$venv" --no-deps --require-hashes -r "$lock"
    return
  fi
  sed -e '/^ *--hash=/d' -e 's/ *\\$//' "$lock" >"$scratch/constraints.txt"
  if [ "$accelerator" = cpu ]; then cat constraints/cpu.txt >>"$scratch/constraints.txt"; fi
  packages "$venv" -c "$scratch/constraints.txt" hatchling &&
    packages "$venv" -c "$scratch/constraints.txt" --no-build-isolation -e ".[trainer,dev]"
}

install_project() { packages "$1" --quiet --no-deps --no-build-isolation -e .; }

check_main() {
  if [ -n "$uv" ]; then "$uv" pip check --python "$1/bin/python"; else "$1/bin/python" -m pip check; fi
}

for name in $todo; do
  venv="$(venv_of "$name")"
  short="${venv##*/}"
  fingerprint="$(fingerprint_of "$name")"
  stage "$short: environment" make_venv "$venv"
  # Gone until the end, so that an interrupted installation is taken up again.
  rm -f "$venv/.rootstock-stamp"
  if [ "$accelerator" = cpu ]; then stage "$short: torch" install_torch_cpu "$venv"; fi
  stage "$short: packages" install_lock "$name" "$venv"
  stage "$short: this project" install_project "$venv"
  # vLLM's environment lacks, on purpose, three packages its metadata asks for; only ours must be whole.
  if [ "$name" = main ]; then stage "$short: consistent" check_main "$venv"; fi
  echo "$fingerprint" >"$venv/.rootstock-stamp"
done
say "ready ($((SECONDS - began)) s)"
