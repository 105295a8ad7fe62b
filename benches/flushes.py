"""What many flushes do to a packed store: is the 1,001st as fast as the first?"""
import random
import shutil
import statistics
import subprocess
import time
from pathlib import Path

from make_batch import with_other_ids
from otlp_content import decompressed, files

BEHIND = 1000  # flushes that a store has
COUNTED = 100  # flushes on each store, of which the median counts
POLL = 0.005  # seconds


def small_batches(corpus, folder, raw_bytes=60_000):
    """A batch of this size for each flush, the same but for their ids, so that all are the same work."""
    sample, cut = folder / "sample", folder / "cut"
    sample.mkdir(parents=True)
    shutil.copy(next(iter(files([corpus]))), sample)
    here = Path(__file__).resolve().parent
    subprocess.run([here / "cut_corpus.py", "--raw-bytes", str(raw_bytes), sample, cut], check=True,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    one = decompressed(next(iter(files([cut]))))
    batches = folder / "batches"
    batches.mkdir()
    for number in range(BEHIND + COUNTED):
        (batches / f"{number:05}.json").write_bytes(with_other_ids(one, number))
    return sorted(batches.iterdir())


class Worker:
    """A worker that runs for long and polls all the time."""

    def __init__(self, gravity, store):
        self.store, self.raw = store, store / "raw-spans/dt=2025-10-31/hour=11"
        self.raw.mkdir(parents=True)
        self.process = subprocess.Popen([gravity, "-q", "worker", "--store", store, "--layout", "packed", "--listen", "off",
                                         "--poll-interval", f"{POLL * 1000:.0f}ms", "--flush-interval", "1ms"])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()

    def seconds(self, batch):
        """From a batch's arrival to its flush."""
        before = flushed(self.store)
        # At any moment between two polls: right behind the last flush, a microsecond more could be a whole poll more.
        time.sleep(random.uniform(0, 2 * POLL))
        start = time.perf_counter()
        shutil.copy(batch, self.raw / f".{batch.name}")
        (self.raw / f".{batch.name}").rename(self.raw / batch.name)
        while flushed(self.store) == before:
            if self.process.poll() is not None or time.perf_counter() - start > 60:
                raise SystemExit(f"{batch.name} was not stored")
            time.sleep(0.0002)
        seconds = time.perf_counter() - start
        # A poll is to find no more files with every batch: it is not what is measured.
        (self.raw / batch.name).unlink()
        return seconds


def in_one_process(gravity, few, many, batches):
    """Median seconds of a flush behind the first one, and of one behind a thousand: each in turn, since what fsync takes
    changes from minute to minute."""
    with Worker(gravity, many) as worker_of_many, Worker(gravity, few) as worker_of_few:
        for batch in batches[:BEHIND]:
            worker_of_many.seconds(batch)
        # The first one has all texts to store; those behind it have the same work.
        worker_of_few.seconds(batches[0])
        pairs = [(worker_of_few.seconds(batch), worker_of_many.seconds(batch)) for batch in batches[BEHIND:]]
    return [statistics.median(seconds) for seconds in zip(*pairs)]


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
    many = work / "many"
    early, late = in_one_process(gravity, work / "few", many, batches)
    empty, full = [], []
    for round_ in range(21):
        few = work / f"few-{round_}"
        new_process(gravity, few, batches[0])
        empty.append(new_process(gravity, few, batches[-1]))
        full.append(new_process(gravity, many, batches[-1]))
    empty, full = statistics.median(empty), statistics.median(full)
    print(f"  flushes of {batches[0].stat().st_size:,} bytes, the same texts under other ids")
    print(f"  in one process: {early * 1000:.1f} ms behind the first flush, {late * 1000:.1f} ms behind {BEHIND:,}: "
          f"{late / early:.2f}x")
    print(f"  a new process:  {empty * 1000:.1f} ms on a store of one flush, {full * 1000:.1f} ms on one of "
          f"{BEHIND + COUNTED:,}: {full / empty:.2f}x")
