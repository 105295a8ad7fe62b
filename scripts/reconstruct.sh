#!/usr/bin/env bash
# Writes a trace of the stack's store to stdout, exactly as it arrived. Options go to `gravity reconstruct`.
#
#   scripts/reconstruct.sh 44e0a6b4c1d24f7f9c8e5b7a3d2f1e00
#   scripts/reconstruct.sh --list 44e0a6b4c1d24f7f9c8e5b7a3d2f1e00
set -euo pipefail
# shellcheck source=common.sh
. "$(dirname "$0")/common.sh"

gravity reconstruct "$@"
