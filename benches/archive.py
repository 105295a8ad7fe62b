#!/usr/bin/env python3
"""The packed layout against gzip and zstd: bytes, and time side by side.

    benches/archive.py target/release/gravity CORPUS_DIR...

For each corpus (a folder of gzip'd batches): what it is as written, what one zstd stream over all its documents
comes to, and what a packed store of it comes to as ingested and (where this gravity can) once compacted; then
`gravity ingest` into a directory, `gzip -dc` and `gzip -dc | zstd -3 --long` in turn. Each store's batches are restored
and compared with what gzip gives. Then what a flush takes in requests, what ingest takes in memory, how soon
`gravity reconstruct` gives a trace's first byte, and (flushes.py) whether flushes get slower as they pile up. Needs gzip
and zstd.
"""
import argparse
import json
import os
import pathlib
import re
import shlex
import shutil
import statistics
import subprocess
import tempfile
import time

from flushes import bench_flushes
from otlp_content import files
from side_by_side import measured


def output_bytes(command):
    """Bytes that a shell command prints."""
    done = subprocess.run(["bash", "-o", "pipefail", "-c", f"{command} | wc -c"], check=True, stdout=subprocess.PIPE)
    return int(done.stdout)


def store_bytes(store):
    return sum(path.stat().st_size for folder in ("nodes", "spans") for path in (store / folder).rglob("*.parquet"))


def can(gravity, command):
    return subprocess.run([gravity, command, "--help"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0


def check_restored(gravity, store, paths):
    """How many batches come back as gzip gives them; any that does not ends this."""
    for path in paths:
        restored = subprocess.run([gravity, "-q", "restore", "--store", store, str(path)], check=True, stdout=subprocess.PIPE)
        original = subprocess.run(["gzip", "-dc", str(path)], check=True, stdout=subprocess.PIPE)
        if restored.stdout != original.stdout:
            raise SystemExit(f"{path}: what is restored is not what gzip gives")
    return len(paths)


def ingest_once(gravity, store, paths):
    """(requests that write, MiB at the peak, the traces) of one ingest in one flush."""
    command = [gravity, "ingest", "--layout", "packed", "--store", store, "--flush-bytes", "1TB", *map(str, paths)]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen(command, stdout=out, stderr=err)
        _, status, usage = os.wait4(process.pid, 0)
        out.seek(0), err.seek(0)
        said = err.read().decode()
        if status:
            raise SystemExit(said)
        traces = [trace for line in out for trace in json.loads(line)["traces"]]
    puts = int(re.search(r"(\d+) PUT", said)[1])
    return puts, usage.ru_maxrss / 1024, traces


def first_byte(gravity, store, traces, count=41):
    """Median milliseconds from the start of `gravity reconstruct` to its first byte, over traces of the whole store, and
    from the start of `gravity --version` to its own, each in turn."""
    times = {"reconstruct": [], "--version": []}
    for trace in traces[::max(1, len(traces) // count)][:count]:
        commands = {"reconstruct": ["-q", "reconstruct", "--store", store, trace], "--version": ["--version"]}
        for name, arguments in commands.items():
            start = time.perf_counter()
            with subprocess.Popen([gravity, *arguments], stdout=subprocess.PIPE) as process:
                if process.stdout.read(1):
                    times[name].append(time.perf_counter() - start)
                process.stdout.read()
    return tuple(statistics.median(seconds) * 1000 for seconds in times.values())


def bench(gravity, corpus, rounds, work):
    paths = sorted(files([corpus]))
    quoted = shlex.join(map(str, paths))
    store = work / "store"
    ingest = f"{shlex.quote(gravity)} -q ingest --layout packed --store {store} {quoted} > /dev/null"
    commands = {
        "gravity ingest": ingest,
        "gzip -dc": f"gzip -dc {quoted} > /dev/null",
        "gzip -dc | zstd -3 --long": f"gzip -dc {quoted} | zstd -q -3 --long=27 > /dev/null",
    }
    times = {name: [] for name in commands}
    for round_ in range(rounds + 1):
        shutil.rmtree(store, ignore_errors=True)
        for name, command in commands.items():
            wall, cpu = measured(command)
            if round_:
                times[name].append((wall, cpu))

    raw = output_bytes(f"gzip -dc {quoted}")
    sizes = {
        "gzip as written": sum(path.stat().st_size for path in paths),
        "one zstd -3 --long=27": output_bytes(f"gzip -dc {quoted} | zstd -q -3 --long=27"),
        "one zstd -19 --long=31": output_bytes(f"gzip -dc {quoted} | zstd -q -19 --long=31"),
        "packed, as ingested": store_bytes(store),
    }
    shutil.rmtree(store)
    puts, peak, traces = ingest_once(gravity, store, paths)
    restored = check_restored(gravity, store, paths) if can(gravity, "restore") else None
    first_bytes = {"as ingested": first_byte(gravity, store, traces)}
    if can(gravity, "compact") and can(gravity, "gc"):
        subprocess.run([gravity, "-q", "compact", "--store", store], check=True, stdout=subprocess.DEVNULL)
        subprocess.run([gravity, "-q", "gc", "--older-than", "0s", "--store", store], check=True, stdout=subprocess.DEVNULL)
        sizes["packed, compacted"] = store_bytes(store)
        restored = check_restored(gravity, store, paths)
        first_bytes["compacted"] = first_byte(gravity, store, traces)

    print(f"\n{corpus}: {len(paths)} batches, {raw:,} bytes; {restored} restored and equal")
    print(f"  {'':26}{'bytes':>12}{'of zstd -3':>12}{'of zstd -19':>13}")
    for name, size in sizes.items():
        of3, of19 = size / sizes["one zstd -3 --long=27"], size / sizes["one zstd -19 --long=31"]
        print(f"  {name:26}{size:>12,}{of3:>11.2f}x{of19:>12.2f}x")
    gzip_wall = statistics.median(wall for wall, _ in times["gzip -dc"])
    print(f"  {'':26}{'seconds':>12}{'CPU':>12}{'of gzip -dc':>13}")
    for name, rows in times.items():
        wall, cpu = (statistics.median(column) for column in zip(*rows))
        print(f"  {name:26}{wall:>12.3f}{cpu:>12.3f}{wall / gzip_wall:>12.2f}x")
    # The first of all writes the marker, too.
    print(f"  {puts - 1} PUT for one flush of {len(paths)} batches, peak memory {peak:.0f} MiB")
    told = (f"{ms:.1f} ms {what} ({bare:.1f} ms for --version)" for what, (ms, bare) in first_bytes.items())
    print("  first byte of reconstruct: " + ", ".join(told))
    bench_flushes(gravity, corpus, work / "flushes")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="after one that does not count (default: %(default)s)")
    parser.add_argument("gravity", metavar="BIN")
    parser.add_argument("corpora", nargs="+", metavar="CORPUS_DIR")
    args = parser.parse_args()
    for tool in ("gzip", "zstd"):
        if not shutil.which(tool):
            raise SystemExit(f"{tool} is not installed")
    for corpus in args.corpora:
        with tempfile.TemporaryDirectory() as work:
            bench(args.gravity, corpus, args.rounds, pathlib.Path(work))


if __name__ == "__main__":
    main()
