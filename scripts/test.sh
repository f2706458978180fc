#!/usr/bin/env bash
# Runs every test, the integration tests against a stack of their own, which is removed afterwards.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."

# pytest removes the stack itself; this is for the case that it was killed.
trap '.venv/bin/fleet clean --project banking-test >/dev/null 2>&1 || true' EXIT

# Where images are built, that takes minutes: the unit tests run meanwhile. The stack's own call waits for this one, and
# tells what went wrong if it failed.
if (($# == 0)); then images/build.sh cassandra nginx >/dev/null 2>&1 & fi

.venv/bin/pytest --cov --cov-report=term --cov-fail-under=90 "$@"
