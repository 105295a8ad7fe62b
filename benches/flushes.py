"""What many flushes do to a packed store: is the 1,001st as fast as the first?"""
import shutil
import statistics
import subprocess
import time
from pathlib import Path

from make_batch import with_other_ids
from otlp_content import decompressed, files

FLUSHES = 1001
AT_ONCE = 50  # flushes, of which the median counts


def small_batches(corpus, folder, raw_bytes=60_000):
    """As many batches of this size as there are flushes, the same but for their ids, so that all are the same work."""
    sample, cut = folder / "sample", folder / "cut"
    sample.mkdir(parents=True)
    shutil.copy(next(iter(files([corpus]))), sample)
    here = Path(__file__).resolve().parent
    subprocess.run([here / "cut_corpus.py", "--raw-bytes", str(raw_bytes), sample, cut], check=True,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    one = decompressed(next(iter(files([cut]))))
    batches = folder / "batches"
    batches.mkdir()
    for number in range(FLUSHES):
        (batches / f"{number:05}.json").write_bytes(with_other_ids(one, number))
    return sorted(batches.iterdir())


def in_one_process(gravity, store, batches):
    """Seconds from the arrival of each batch to its flush, in a worker that runs for long and polls all the time."""
    raw = store / "raw-spans/dt=2025-10-31/hour=11"
    raw.mkdir(parents=True)
    command = [gravity, "-q", "worker", "--store", store, "--layout", "packed", "--listen", "off",
               "--poll-interval", "5ms", "--flush-interval", "1ms"]
    seconds = []
    with subprocess.Popen(command) as worker:
        for batch in batches:
            before = flushed(store)
            start = time.perf_counter()
            shutil.copy(batch, raw / f".{batch.name}")
            (raw / f".{batch.name}").rename(raw / batch.name)
            while flushed(store) == before:
                if worker.poll() is not None or time.perf_counter() - start > 60:
                    raise SystemExit(f"{batch.name} was not stored")
                time.sleep(0.0002)
            seconds.append(time.perf_counter() - start)
            # A poll is to find no more files with every batch: it is not what is measured.
            (raw / batch.name).unlink()
        worker.terminate()
    return seconds


def flushed(store):
    """Changes with every flush."""
    return [(day.name, day.stat().st_mtime_ns) for day in store.glob("spans/*")]


def new_process(gravity, store, batch):
    start = time.perf_counter()
    subprocess.run([gravity, "-q", "ingest", "--layout", "packed", "--store", store, "--again", batch], check=True,
                   stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def bench_flushes(gravity, corpus, work):
    batches = small_batches(corpus, work)
    store = work / "many"
    seconds = in_one_process(gravity, store, batches)
    # The first one has all texts to store; those behind it have the same work.
    early, late = (statistics.median(part) for part in (seconds[1:1 + AT_ONCE], seconds[-AT_ONCE:]))
    empty, full = [], []
    for round_ in range(7):
        few = work / f"few-{round_}"
        new_process(gravity, few, batches[0])
        empty.append(new_process(gravity, few, batches[-1]))
        full.append(new_process(gravity, store, batches[-1]))
    empty, full = statistics.median(empty), statistics.median(full)
    print(f"  flushes of {batches[0].stat().st_size:,} bytes, the same texts under other ids")
    print(f"  in one process: {early * 1000:.1f} ms behind the first flush, {late * 1000:.1f} ms behind {FLUSHES - 1:,}: "
          f"{late / early:.2f}x")
    print(f"  a new process:  {empty * 1000:.1f} ms on a store of one flush, {full * 1000:.1f} ms on one of "
          f"{FLUSHES:,}: {full / empty:.2f}x")
