//! The `gravity` command line: parse, run one command, turn its outcome into an exit code.

mod cache;
mod cli;
mod commands;
mod config;
mod exit;
mod health;
mod inputs;
mod later;
mod listener;
mod logging;
mod metrics;
mod progress;
mod s3_args;
mod say;
mod shutdown;
#[cfg(feature = "otlp")]
mod traces;
mod units;

use std::process::ExitCode;
use std::time::Duration;
use tokio::runtime::Runtime;

/// How long files that are being read or written may keep the process after its last word.
const LAST_WRITES: Duration = Duration::from_secs(1);

/// What glibc keeps of freed memory, of each of its arenas, is twice this. With 8 MiB, an ingest of 300 MB that hardly
/// compresses needs a quarter to two fifths more memory, and takes as long.
const LARGE: usize = 4 << 20;

/// Lets glibc keep some of what is freed. It gives memory back to the kernel as soon as a few hundred KiB are free, and
/// asks for it again at once; a page touched for the first time costs 3 µs on a virtual machine, and an ingest some 4% of
/// its time. Once it has seen a large piece freed it waits until twice as much is (`mallopt(3)`, `M_MMAP_THRESHOLD`).
fn keep_freed_memory() {
    drop(std::hint::black_box(Vec::<u8>::with_capacity(LARGE)));
}

fn main() -> ExitCode {
    keep_freed_memory();
    let cli = cli::parse();
    let runtime = Runtime::new();
    let exports = matches!(cli.command, cli::Command::Worker(_));
    let traces = logging::init(&cli.logging, runtime.as_ref().ok().filter(|_| exports).map(Runtime::handle));
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(e) => return exit::report(&exit::Failure::Failed(format!("the async runtime could not start: {e}"))),
    };
    let outcome = runtime.block_on(commands::run(cli.command, &cli.logging));
    traces.flush();
    // What still waits for the network has nothing to say any more. Whoever writes a file has a moment to end it, and
    // with the last of them the folder of temporary files goes.
    runtime.shutdown_timeout(LAST_WRITES);
    match outcome {
        Ok(done) => done.into(),
        Err(e) => exit::report(&e),
    }
}
