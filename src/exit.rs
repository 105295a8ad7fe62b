//! How a command ends: 0 done, 1 failed, 2 usage, 3 done but something went to quarantine.

use crate::say;
use gravity_pipeline::{Error, store};
use std::process::ExitCode;

/// A command that ran to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// All is well: 0.
    Well,
    /// Something failed, was reported, and the rest was done: 1.
    WithFailures,
    /// Something went to quarantine: 3.
    WithQuarantine,
}

impl From<Done> for ExitCode {
    fn from(done: Done) -> Self {
        match done {
            Done::Well => ExitCode::SUCCESS,
            Done::WithFailures => ExitCode::from(1),
            Done::WithQuarantine => ExitCode::from(3),
        }
    }
}

/// A command that could not go on.
#[derive(Debug)]
pub enum Failure {
    /// What was asked for makes no sense: 2.
    Usage(String),
    /// It did not work: 1.
    Failed(String),
    /// Whoever read our output has gone, which is their right: 0.
    ReaderGone,
}

impl From<Error> for Failure {
    fn from(e: Error) -> Self {
        Failure::Failed(e.to_string())
    }
}

impl From<store::Error> for Failure {
    fn from(e: store::Error) -> Self {
        Failure::Failed(e.to_string())
    }
}

impl Failure {
    /// A failure to write to stdout.
    pub fn stdout(e: &std::io::Error) -> Self {
        match e.kind() {
            std::io::ErrorKind::BrokenPipe => Failure::ReaderGone,
            _ => Failure::Failed(format!("writing to stdout: {e}")),
        }
    }
}

/// Tells the user, and gives the exit code.
pub fn report(failure: &Failure) -> ExitCode {
    let (message, code) = match failure {
        Failure::ReaderGone => return ExitCode::SUCCESS,
        Failure::Usage(message) => (message, 2),
        Failure::Failed(message) => (message, 1),
    };
    say::fail(message);
    ExitCode::from(code)
}
