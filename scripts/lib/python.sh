# shellcheck shell=bash
# Shared by install.sh and lock.sh: finding Python and uv, and giving uv the settings pip has.
# Sourced, never run.

# A uv that may be used, or nothing. ROOTSTOCK_INSTALLER=pip forbids it.
find_uv() {
  [ "${ROOTSTOCK_INSTALLER:-}" = pip ] && return 1
  local candidate
  for candidate in "${UV:-}" "$(command -v uv || true)" "$HOME/.local/bin/uv" "$ROOT/.venv/bin/uv"; do
    if [ -n "$candidate" ] && [ -x "$candidate" ] && "$candidate" --version >/dev/null 2>&1; then
      echo "$candidate"
      return 0
    fi
  done
  return 1
}

# The first Python 3.11 or 3.12 that starts, as a full path. 3.11 comes first because the lock files
# carry hashes for it. $1=ensurepip when the interpreter must be able to make an environment alone.
find_python() {
  local need="${1:-}" candidate
  # Several steps: a name on PATH may be a shim that knows no such version, or lack the venv module.
  for candidate in ${PYTHON:+"$PYTHON"} python3.11 python3.12 python3 python /usr/bin/python3.11 /usr/bin/python3.12; do
    command -v "$candidate" >/dev/null 2>&1 || continue
    "$candidate" - "$need" 2>/dev/null <<'PY' && return 0
import importlib, sys
if not (3, 11) <= sys.version_info[:2] <= (3, 12):
    sys.exit(1)
if sys.argv[1]:
    importlib.import_module(sys.argv[1])
print(getattr(sys, "_base_executable", None) or sys.executable)  # of the interpreter itself when in an environment
PY
  done
  return 1
}

# uv reads none of pip's configuration. A site that has set up pip (a mirror, a folder of wheels, its
# own certificate) should not have to do so twice: whatever `pip config list` reports, files and
# PIP_* variables alike, becomes uv's equivalent. What the user has set for uv itself wins.
# $1 = a Python that has pip.
carry_pip_settings_to_uv() {
  local name value
  while IFS=$'\t' read -r name value; do
    [ -n "$value" ] && [ -z "${!name:-}" ] && export "$name=$value"
  done < <("$1" - <<'PY' 2>/dev/null || true
import ast, os, subprocess, sys

listing = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True).stdout
files, env = {}, {}
for line in listing.splitlines():
    key, sep, raw = line.partition("=")
    if not sep:
        continue
    try:
        value = str(ast.literal_eval(raw))
    except (SyntaxError, ValueError):
        value = raw
    section, _, option = key.rpartition(".")
    # [install] beats [global], the environment beats both: pip's own order.
    if section == ":env:":
        env[option] = value
    elif section == "install" or option not in files:
        files[option] = value
merged = {**files, **env}
names = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "cert": "SSL_CERT_FILE",
    "trusted-host": "UV_INSECURE_HOST",
    "default-timeout": "UV_HTTP_TIMEOUT",
    "timeout": "UV_HTTP_TIMEOUT",
}
for option, name in names.items():
    if merged.get(option):
        # pip separates several values by spaces or lines; so does uv, except that find-links takes commas.
        joiner = "," if option == "find-links" else " "
        print(name + "\t" + joiner.join(merged[option].split()))
if merged.get("no-index", "").lower() in {"1", "true", "yes", "on"}:
    print("UV_NO_INDEX\t1")
PY
  )
  # pip looks at every index and takes the best version; uv by default stops at the first index that
  # knows the name, which would hide newer files when a mirror is split in two.
  export UV_INDEX_STRATEGY="${UV_INDEX_STRATEGY:-unsafe-best-match}"
  # The cache is often on another file system in containers; the fallback is what uv would do anyway,
  # this only keeps it from warning once per package.
  export UV_LINK_MODE="${UV_LINK_MODE:-$(uv_link_mode)}"
}

uv_link_mode() {
  local cache="${UV_CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/uv}"
  mkdir -p "$cache" 2>/dev/null || true
  if [ "$(stat -c %d "$cache" 2>/dev/null)" = "$(stat -c %d "$ROOT" 2>/dev/null)" ]; then
    echo hardlink
  else
    echo copy
  fi
}
