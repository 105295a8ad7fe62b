//! `gravity keys`: the content table.

use crate::exit::{Done, Failure};
use gravity_pipeline::keys::TABLE;
use std::io::Write;

/// Prints the table.
pub fn run(json: bool) -> Result<Done, Failure> {
    let mut out = std::io::stdout().lock();
    let mut print = || -> std::io::Result<()> {
        for row in TABLE {
            if json {
                serde_json::to_writer(&mut out, row)?;
                writeln!(out)?;
            } else {
                let key = row.event.map_or(row.key.to_owned(), |event| format!("event {event}: {}", row.key));
                writeln!(out, "{key:<58} {:<14} {}", row.producer, row.source)?;
            }
        }
        out.flush()
    };
    print().map_err(|e| Failure::stdout(&e))?;
    Ok(Done::Well)
}
