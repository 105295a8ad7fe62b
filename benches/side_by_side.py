#!/usr/bin/env python3
"""Gravity against gzip | zstd, in turn, so that a slow moment of the machine meets all of them.

    benches/side_by_side.py target/release/gravity FILES...

Files must be gzip (folders are searched). Nothing is stored: what is compared is reading, deduplicating and
compressing. `cpu` is user and system time of all processes and threads.
"""
import argparse
import resource
import shlex
import shutil
import statistics
import subprocess
import time

from otlp_content import files


def measured(command):
    """(wall seconds, CPU seconds)"""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], stderr=subprocess.PIPE)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"exit code {done.returncode}: {command[:200]}\n{done.stderr.decode(errors='replace')[-1000:]}")
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="after one that does not count (default: %(default)s)")
    parser.add_argument("gravity", metavar="BIN")
    parser.add_argument("files", nargs="+", metavar="FILES")
    args = parser.parse_args()

    paths = list(files(args.files))
    for path in paths:
        with open(path, "rb") as file:
            if file.read(2) != b"\x1f\x8b":
                raise SystemExit(f"{path} is not gzip")
    quoted = shlex.join(map(str, paths))
    commands = {
        "gravity ingest": f"{shlex.quote(args.gravity)} ingest --store discard: {quoted} > /dev/null",
        "gzip | zstd -3 --long": f"gzip -dc {quoted} | zstd -3 --long=27 > /dev/null",
        "gzip -dc": f"gzip -dc {quoted} > /dev/null",
    }
    if not shutil.which("zstd"):
        print("zstd is not installed: `gzip | zstd -3 --long` is SKIPPED\n")
        del commands["gzip | zstd -3 --long"]

    times = {name: [] for name in commands}
    for round_ in range(args.rounds + 1):
        for name, command in commands.items():
            seconds = measured(command)
            if round_:
                times[name].append(seconds)

    medians = {name: [statistics.median(column) for column in zip(*rows)] for name, rows in times.items()}
    ours = medians["gravity ingest"]
    print(f"{len(paths)} files, medians of {args.rounds} rounds")
    print(f"{'':24}{'wall s':>8}{'min':>8}{'max':>8}{'cpu s':>8}   gravity's wall is")
    for name, (wall, cpu) in medians.items():
        walls = [w for w, _ in times[name]]
        ratio = "" if name == "gravity ingest" else f"   {ours[0] / wall:.2f} of it"
        print(f"{name:24}{wall:8.3f}{min(walls):8.3f}{max(walls):8.3f}{cpu:8.3f}{ratio}")


if __name__ == "__main__":
    main()
