//! One file per command.

mod compact;
mod convert;
mod gc;
mod health;
mod ingest;
mod inspect;
mod keys;
mod quarantine;
mod reconstruct;
mod restore;
mod shell;
mod verify;
mod worker;

use crate::cli::{Command, LogArgs};
use crate::exit::{Done, Failure};
use crate::later::Later;

/// Runs a command to its end.
pub async fn run(command: Command, logging: &LogArgs) -> Result<Done, Failure> {
    match command {
        Command::Ingest(Later(args)) => ingest::run(args, logging.quiet).await,
        Command::Worker(Later(args)) => worker::run(args).await,
        Command::Health(Later(args)) => health::run(args).await,
        Command::Reconstruct(Later(args)) => reconstruct::run(args, logging.quiet).await,
        Command::Restore(Later(args)) => restore::run(args, logging.quiet).await,
        Command::Convert(Later(args)) => convert::run(args, logging.quiet).await,
        Command::Inspect(Later(args)) => inspect::run(args, logging.quiet).await,
        Command::Compact(Later(args)) => compact::run(args, logging.quiet).await,
        Command::Gc(Later(args)) => gc::run(args, logging.quiet).await,
        Command::Verify(Later(args)) => verify::run(args, logging.quiet).await,
        Command::Quarantine(command) => quarantine::run(command).await,
        Command::Keys { json } => keys::run(json),
        Command::Completions { shell } => shell::completions(shell),
        Command::Man { folder } => shell::man(&folder),
    }
}
