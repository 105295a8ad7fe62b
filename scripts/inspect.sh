#!/usr/bin/env bash
# What the stack's store holds, saves and costs. Options go to `gravity inspect`.
set -euo pipefail
# shellcheck source=common.sh
. "$(dirname "$0")/common.sh"

gravity inspect "$@"
