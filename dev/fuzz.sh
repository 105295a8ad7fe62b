#!/usr/bin/env bash
# Runs every fuzz target for a while; what they find stays in pipeline/fuzz/
# (corpus/ and artifacts/, git-ignored).
#
#   dev/fuzz.sh [TARGET]...      FUZZ_SECONDS=30 is the time for each; lift takes
#                                a million inputs for each 30 seconds instead
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.tools/bin:$PATH"

if [ $# = 0 ]; then
    # Not those that read Parquet: the library still hangs on some hostile files (its reader of metadata passes over lists
    # whose items have no bytes), which is its makers' to mend. Name them to run them.
    # lift, which takes the longest, begins first.
    list="$(echo lift && cargo fuzz list --fuzz-dir pipeline/fuzz | grep -vx -e 'parquet_.*' -e lift)"
    mapfile -t targets <<<"$list"
    set -- "${targets[@]}"
fi
[ -n "${1:-}" ] || { echo "fuzz: no targets in pipeline/fuzz" >&2; exit 1; }

# Without a sanitizer cargo-fuzz works on stable Rust, so every machine runs the same thing; and our own code holds no
# unsafe that one could watch.
fuzz() {
    local target=$1 corpus="pipeline/fuzz/corpus/$1" seeds="pipeline/fuzz/seeds/$1"
    mkdir -p "$corpus"
    local dirs=("$corpus")
    # Committed seeds come second: libFuzzer writes what it finds to the first.
    [ -d "$seeds" ] && dirs+=("$seeds")
    local limit="-max_total_time=${FUZZ_SECONDS:-30}"
    # What must never fail is counted in inputs, so that a slow machine does not do less.
    [ "$target" = lift ] && limit="-runs=$((1000000 * (${FUZZ_SECONDS:-30} > 30 ? FUZZ_SECONDS / 30 : 1)))"
    cargo fuzz run --fuzz-dir pipeline/fuzz --sanitizer none "$target" "${dirs[@]}" -- \
        "$limit" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
        -verbosity=0
}

# Output of targets that run at the same time does not mix: each one's is shown when it is done.
whole() {
    local log code=0
    log="$(mktemp)"
    fuzz "$1" >"$log" 2>&1 || code=$?
    printf 'fuzz: %s\n%s\n' "$1" "$(cat "$log")"
    rm "$log"
    return $code
}

# One is followed as it runs; several run on all cores.
if [ $# = 1 ]; then
    fuzz "$1"
else
    cargo fuzz build --fuzz-dir pipeline/fuzz --sanitizer none
    export -f fuzz whole
    # shellcheck disable=SC2016  # it is the other shell's
    printf '%s\0' "$@" | xargs -0 -n 1 -P "$(nproc)" bash -euo pipefail -c 'whole "$0"'
fi
