//! Words for people on stderr. A stderr that nobody reads is no error, and with `--log-format json` every line of it
//! is a log line.

use crate::cli::LogFormat;
use std::fmt;
use std::io::Write;
use std::sync::OnceLock;

static FORMAT: OnceLock<LogFormat> = OnceLock::new();

/// Chooses the form once and for all.
pub fn init(format: LogFormat) {
    // A second call would change nothing, and there is none.
    let _ = FORMAT.set(format);
}

fn is_json() -> bool {
    FORMAT.get() == Some(&LogFormat::Json)
}

/// Says a line: a summary, a header.
pub fn line(line: fmt::Arguments<'_>) {
    match is_json() {
        true => tracing::info!("{line}"),
        false => write(line),
    }
}

/// Says why the command ends.
pub fn fail(message: &str) {
    match is_json() {
        true => tracing::error!("{message}"),
        false => write(format_args!("gravity: {message}")),
    }
}

fn write(line: fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// [`line`] with a format string, in place of `eprintln!`, which panics when nobody reads.
macro_rules! say {
    ($($arg:tt)*) => {
        $crate::say::line(format_args!($($arg)*))
    };
}
pub(crate) use say;
