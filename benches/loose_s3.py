#!/usr/bin/env python3
"""How fast does the loose layout go to S3? On the batches that cut_corpus.py makes of tau_airline.

    benches/loose_s3.py --gravity target/release/gravity --runs 3 CUT_DIR

AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION say where the server is; the
bucket must be there. Each run writes under a new prefix, so that nothing is known from the run before.
"""
import argparse
import os
import statistics
import subprocess
import time

from otlp_content import files

# The original program, measured on the 154 batches of tau_airline.
ORIGINAL = {"files": 154, "seconds": 65, "files a minute": 141, "HEAD": 75_563, "PUT": 4_139}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gravity", metavar="BIN", default="target/release/gravity", help="default: %(default)s")
    parser.add_argument("--runs", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--bucket", default="gravity-bench", help="default: %(default)s")
    parser.add_argument("cut", metavar="CUT_DIR")
    args = parser.parse_args()
    if "AWS_ENDPOINT_URL" not in os.environ:
        raise SystemExit("AWS_ENDPOINT_URL is not set: start a local S3 server and say where it is")
    count = len(list(files([args.cut])))
    if not count:
        raise SystemExit(f"no batches in {args.cut}")

    times = []
    for run in range(1, args.runs + 1):
        store = f"s3://{args.bucket}/loose-{int(time.time())}-{os.getpid()}-{run}"
        start = time.perf_counter()
        done = subprocess.run([args.gravity, "ingest", "--store", store, args.cut],
                              stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        times.append(time.perf_counter() - start)
        print(f"run {run}: {times[-1]:.2f} s, {store}")
        print("  " + done.stderr.decode(errors="replace").strip().replace("\n", "\n  "))
        if done.returncode:
            raise SystemExit(f"exit code {done.returncode}")

    median = statistics.median(times)
    rate = count / median * 60
    print(f"\ngravity:  {count} files, median {median:.2f} s of {args.runs}, {rate:,.0f} files a minute")
    print("original: {files} files, {seconds} s, {files a minute} files a minute, {HEAD:,} HEAD, {PUT:,} PUT"
          .format_map(ORIGINAL))
    print(f"ratio:    {rate / ORIGINAL['files a minute']:.1f} times the files a minute")
    if abs(count - ORIGINAL["files"]) > 8:
        print("(other files than the original's: the ratio says little)")


if __name__ == "__main__":
    main()
