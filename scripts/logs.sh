#!/usr/bin/env bash
# The logs: of all services, or of those named. With Docker it follows them.
set -euo pipefail
# shellcheck source=common.sh
. "$(dirname "$0")/common.sh"

if native; then stack logs "$@"; else compose logs --tail 100 --follow "$@"; fi
