//! One file per command.

mod ingest;
mod inspect;
mod keys;
mod reconstruct;
mod shell;
mod worker;

use crate::cli::{Command, LogArgs};
use crate::exit::{Done, Failure};

/// Runs a command to its end.
pub async fn run(command: Command, logging: &LogArgs) -> Result<Done, Failure> {
    match command {
        Command::Ingest(args) => ingest::run(args, logging.quiet).await,
        Command::Worker(args) => worker::run(args).await,
        Command::Reconstruct(args) => reconstruct::run(args, logging.quiet).await,
        Command::Inspect(args) => inspect::run(args, logging.quiet).await,
        Command::Keys { json } => keys::run(json),
        Command::Completions { shell } => shell::completions(shell),
        Command::Man { folder } => shell::man(&folder),
    }
}
