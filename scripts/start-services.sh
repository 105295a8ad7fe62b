#!/usr/bin/env bash
# Starts the stack, and returns when all of it is healthy. What runs already stays.
#
#   scripts/start-services.sh            with Docker
#   NATIVE=1 scripts/start-services.sh   without: needs Python 3, Go and Rust, and installs the rest into .tools/
#
# GRAVITY=path/to/gravity takes that binary instead of building one (native only).
set -euo pipefail
# shellcheck source=common.sh
. "$(dirname "$0")/common.sh"

if native; then
    "$root/dev/tools.sh" seaweedfs ministack litellm otelcol prometheus
    [ -n "${GRAVITY:-}" ] || cargo build --release --manifest-path "$root/Cargo.toml"
    stack start "$@"
else
    compose up --build --detach --wait "$@"
    compose ps
fi
