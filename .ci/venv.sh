# Sourced by ./check and ./demo, from the repository's root: `make_venv` makes .venv, once, and again when what it
# is made from changes. PYTHON chooses the interpreter (3.11 or later).

find_python() {
  local candidate
  for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "$0: expected Python 3.11 or later, got none in: ${PYTHON:-python3, python3.11 … python3.14}; set PYTHON" >&2
  exit 1
}

make_venv() {
  local python made_from
  python=$(find_python) || exit 1
  made_from=$("$python" -c 'import sys; print(sys.version, sys.executable)'; cat pyproject.toml constraints.txt)
  if [ "$made_from" = "$(cat .venv/made-from 2>/dev/null)" ]; then return; fi
  echo "making .venv with $("$python" --version)"
  rm -rf .venv
  "$python" -m venv .venv &&
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,check]' &&
    printf '%s\n' "$made_from" > .venv/made-from ||
    { echo "$0: .venv could not be made" >&2; exit 1; }
}
