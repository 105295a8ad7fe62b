#!/usr/bin/env bash
# Starts the stack, sends one request through all of it, and shows where to look.
#
#   scripts/dev.sh            with Docker
#   NATIVE=1 scripts/dev.sh   without
set -euo pipefail
# shellcheck source=common.sh
. "$(dirname "$0")/common.sh"

"$root/scripts/start-services.sh"

# With a traceparent of ours we know the trace before it is there.
trace_id="$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')"
proxy="http://127.0.0.1:$(if native; then stack port LITELLM; else setting LITELLM_PORT; fi)"
request='{"model": "mock", "messages": [{"role": "user", "content": "Hello, Gravity.\nAre you there?"}]}'
printf '\nPOST %s/v1/chat/completions\n' "$proxy"
curl --fail --silent --show-error --noproxy '*' "$proxy/v1/chat/completions" \
    --header 'Content-Type: application/json' --header "traceparent: 00-$trace_id-${trace_id:0:16}-01" --data "$request"

printf '\n\nWaiting for trace %s: the collector waits %s for late spans, and 10 s for a batch.\n' \
    "$trace_id" "$(setting DECISION_WAIT)"
deadline=$((SECONDS + 180))
until content="$(gravity --quiet reconstruct "$trace_id" 2>&1)"; do
    [ $SECONDS -lt $deadline ] || {
        echo "$content" >&2
        echo "dev.sh: the trace did not come; scripts/logs.sh collector, scripts/logs.sh gravity (NATIVE: worker)" >&2
        exit 1
    }
    sleep 1
done
printf '\nscripts/reconstruct.sh %s\n%s\n\n' "$trace_id" "$content"

if native; then
    stack status
else
    cat <<EOF
LiteLLM     http://127.0.0.1:$(setting LITELLM_PORT)    (OpenAI's API; the model \`mock\` needs no key)
Jaeger      http://127.0.0.1:$(setting JAEGER_PORT)
Grafana     http://127.0.0.1:$(setting GRAFANA_PORT)
Prometheus  http://127.0.0.1:$(setting PROMETHEUS_PORT)
S3 console  http://127.0.0.1:$(setting S3_CONSOLE_PORT)
EOF
fi
