//! Log lines on stderr, never content and never credentials.

use crate::cli::{LogArgs, LogFormat};
use crate::say;
#[cfg(feature = "otlp")]
use crate::traces::Traces;
use std::io::IsTerminal;
use tokio::runtime::Handle;
use tracing::{Level, Metadata};
use tracing_subscriber::filter::{FilterExt, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};
#[cfg(not(feature = "otlp"))]
use without::Traces;

/// Starts logging and, where there is a runtime and the environment asks for it, the export of traces.
pub fn init(args: &LogArgs, runtime: Option<&Handle>) -> Traces {
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
    let lines = fmt::layer()
        .with_writer(std::io::stderr)
        // Its way of telling that stderr is gone is to write to stderr.
        .log_internal_errors(false)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal());
    let lines = match args.log_format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    let (traces, why_not) = Traces::start(runtime);
    tracing_subscriber::registry().with(lines.with_filter(filter.and(filter_fn(is_safe)))).with(traces.layer()).init();
    if let Some(why_not) = why_not {
        tracing::warn!("traces are not exported: {why_not}");
    }
    traces
}

/// At the finest level other crates log whole requests, with session tokens, signatures and bodies: they are never
/// asked for it, whatever `RUST_LOG` says.
fn is_safe(line: &Metadata<'_>) -> bool {
    *line.level() <= Level::DEBUG || line.target().starts_with("gravity")
}

/// A program that was built without it exports nothing.
#[cfg(not(feature = "otlp"))]
mod without {
    use tokio::runtime::Handle;

    pub struct Traces;

    impl Traces {
        pub fn start(_: Option<&Handle>) -> (Self, Option<String>) {
            (Self, None)
        }

        pub fn layer(&self) -> Option<tracing_subscriber::layer::Identity> {
            None
        }

        pub fn flush(&self) {}
    }
}
