//! `gravity completions` and `gravity man`: made from the command line's definition.

use crate::cli::Cli;
use crate::exit::{Done, Failure};
use clap::CommandFactory;
use std::io::Write;
use std::path::Path;

/// Prints a completion script.
pub fn completions(shell: clap_complete::Shell) -> Result<Done, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "gravity", &mut script);
    std::io::stdout().write_all(&script).map_err(|e| Failure::stdout(&e))?;
    Ok(Done::Well)
}

/// Writes `gravity.1` and a page per command.
pub fn man(folder: &Path) -> Result<Done, Failure> {
    clap_mangen::generate_to(Cli::command(), folder)
        .map_err(|e| Failure::Failed(format!("{}: {e}", folder.display())))?;
    Ok(Done::Well)
}
