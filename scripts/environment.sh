# Sourced by scripts/run and scripts/check: finds Python, makes .venv, installs what is missing. Only wheels, no compiler.
# shellcheck shell=bash

fail() {
  printf 'roomtone: %s\n' "$1" >&2
  exit 1
}

progress() { printf '%s\n' "$1" >&2; }

find_python() {
  local candidate
  for candidate in python3.13 python3.12 python3.11 python3; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      printf '%s' "$candidate"
      return
    fi
  done
  fail "Python 3.11 or newer is needed (found: $(python3 --version 2>&1 || true)); on Debian: apt-get install python3"
}

make_venv() {
  [ -x .venv/bin/python ] && return
  local python
  python=$(find_python)
  if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    if [ "$(id -u)" = 0 ]; then
      progress "installing python3-venv ..."
      apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3-venv >/dev/null ||
        fail "python3-venv could not be installed; try: apt-get install python3-venv"
    else
      fail "Python's venv module is missing; type: sudo apt-get install python3-venv"
    fi
  fi
  progress "making .venv with $("$python" --version) ..."
  "$python" -m venv .venv || {
    rm -rf .venv
    fail "the virtual environment could not be made with $python"
  }
}

# install_into_venv EXTRA: the project and its dependencies, once for each state of setup.cfg. EXTRA is "" or "[test]".
install_into_venv() {
  local stamp
  stamp=".venv/installed-$(cat setup.cfg pyproject.toml | sha256sum | cut -c1-16)${1//[^a-z]/}"
  [ -e "$stamp" ] && return
  progress "installing packages into .venv (wheels only) ..."
  .venv/bin/python -m pip install --disable-pip-version-check --quiet --only-binary :all: --editable ".$1" ||
    fail "pip could not install the packages named in setup.cfg"
  rm -f .venv/installed-*"${1//[^a-z]/}"
  touch "$stamp"
}
