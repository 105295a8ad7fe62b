#!/usr/bin/env bash
# Ends the stack. With Docker, what was stored stays (--volumes removes it); with NATIVE=1 it is gone.
set -euo pipefail
# shellcheck source=common.sh
. "$(dirname "$0")/common.sh"

if native; then stack stop "$@"; else compose down "$@"; fi
