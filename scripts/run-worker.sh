#!/usr/bin/env bash
# Runs a worker built from this working tree on the stack's store, beside the stack's own, until Ctrl-C. Options go to
# `gravity worker`.
#
#   scripts/run-worker.sh -v --once
set -euo pipefail
# shellcheck source=common.sh
. "$(dirname "$0")/common.sh"

if native; then
    variables="$(stack env)"
    eval "$variables"
else
    # As dev/docker-compose.yml has them; what a developer's shell has of these would win, or break the signatures.
    unset AWS_ENDPOINT_URL_S3 AWS_PROFILE AWS_DEFAULT_PROFILE AWS_SESSION_TOKEN
    AWS_ENDPOINT_URL="http://127.0.0.1:$(setting S3_PORT)"
    GRAVITY_STORE="s3://$(setting TRACES_BUCKET)"
    export AWS_ENDPOINT_URL GRAVITY_STORE AWS_REGION=us-east-1
    export AWS_ACCESS_KEY_ID=gravity-dev AWS_SECRET_ACCESS_KEY=gravity-dev-secret
fi
# The stack's own worker has the usual port.
export GRAVITY_LISTEN="${GRAVITY_LISTEN:-127.0.0.1:0}"
exec cargo run --release --manifest-path "$root/Cargo.toml" -- worker "$@"
