//! Log lines on stderr, never content and never credentials.

use crate::cli::{LogArgs, LogFormat};
use crate::say;
use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// Starts logging.
pub fn init(args: &LogArgs) {
    say::init(args.log_format);
    let level = match (args.quiet, args.verbose) {
        (true, _) => "error",
        (false, 0) => "warn,gravity=info",
        (false, 1) => "warn,gravity=info,gravity_pipeline=info",
        (false, 2) => "info,gravity=debug,gravity_pipeline=debug",
        (false, _) => "debug",
    };
    let filter = EnvFilter::builder().with_default_directive(tracing::level_filters::LevelFilter::WARN.into());
    let filter = match std::env::var("RUST_LOG") {
        Ok(asked) if args.verbose == 0 && !args.quiet => filter.parse_lossy(asked),
        _ => filter.parse_lossy(level),
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // Its way of telling that stderr is gone is to write to stderr.
        .log_internal_errors(false)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal());
    match args.log_format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
}
