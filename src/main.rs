//! The `gravity` command line: parse, run one command, turn its outcome into an exit code.

mod cache;
mod cli;
mod commands;
mod config;
mod exit;
mod health;
mod inputs;
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
use tokio::runtime::Runtime;

fn main() -> ExitCode {
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
    // What still waits for a file or the network has nothing to say any more.
    runtime.shutdown_background();
    match outcome {
        Ok(done) => done.into(),
        Err(e) => exit::report(&e),
    }
}
