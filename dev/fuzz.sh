#!/usr/bin/env bash
# Runs every fuzz target for a while; what they find stays in pipeline/fuzz/
# (corpus/ and artifacts/, git-ignored).
#
#   dev/fuzz.sh [TARGET]...      FUZZ_SECONDS=30 is the time for each; lift takes
#                                a million inputs for each 30 seconds instead
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.tools/bin:$PATH"

# Without a sanitizer cargo-fuzz works on stable Rust, so every machine runs the
# same thing; and our own code holds no unsafe that one could watch.
flags=(--fuzz-dir pipeline/fuzz --sanitizer none)

if [ $# = 0 ]; then
    # Not those that read Parquet: the library still hangs on some hostile files (its reader of metadata passes over lists
    # whose items have no bytes), which is its makers' to mend. Name them to run them.
    list="$(cargo fuzz list --fuzz-dir pipeline/fuzz | grep -v '^parquet_')"
    mapfile -t targets <<<"$list"
    set -- "${targets[@]}"
fi
[ -n "${1:-}" ] || { echo "fuzz: no targets in pipeline/fuzz" >&2; exit 1; }

for target in "$@"; do
    echo "fuzz: $target"
    corpus="pipeline/fuzz/corpus/$target" seeds="pipeline/fuzz/seeds/$target"
    mkdir -p "$corpus"
    dirs=("$corpus")
    # Committed seeds come second: libFuzzer writes what it finds to the first.
    [ -d "$seeds" ] && dirs+=("$seeds")
    limit="-max_total_time=${FUZZ_SECONDS:-30}"
    # What must never fail is counted in inputs, so that a slow machine does not do less.
    [ "$target" = lift ] && limit="-runs=$((1000000 * (${FUZZ_SECONDS:-30} > 30 ? FUZZ_SECONDS / 30 : 1)))"
    cargo fuzz run "${flags[@]}" "$target" "${dirs[@]}" -- \
        "$limit" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
        -verbosity=0
done
