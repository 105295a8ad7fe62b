#!/usr/bin/env bash
# Checks the dependencies against deny.toml: licenses, bans, sources and, where
# the RustSec database can be had, advisories.
#
#   ADVISORY_DB=/path/to/advisory-db dev/deny.sh      from a local clone of it
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.tools/bin:$PATH"

# cargo-deny wants a URL with a host, so git is told to read our clone instead.
if [ -n "${ADVISORY_DB:-}" ]; then
    export GIT_CONFIG_COUNT=1
    db="$(realpath "$ADVISORY_DB")"
    export GIT_CONFIG_KEY_0="url.file://$db.insteadOf"
    export GIT_CONFIG_VALUE_0=https://github.com/RustSec/advisory-db
fi

# Fetching is a step of its own: that a machine is offline must not look like a
# bad dependency, nor the other way round.
if why=$(cargo deny fetch db 2>&1); then
    cargo deny check --hide-inclusion-graph
elif [ -n "${ADVISORY_DB:-}" ]; then
    echo "$why" >&2
    exit 1
else
    cargo deny check --hide-inclusion-graph bans licenses sources
    echo "deny: ADVISORIES NOT CHECKED: the RustSec database cannot be reached from here:"
    echo "$why" | grep -m1 -i fatal || echo "$why" | head -1
fi
