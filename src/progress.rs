//! A line that moves on a terminal, and nothing anywhere else.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;

/// Progress of long work.
#[derive(Clone)]
pub struct Progress(ProgressBar);

impl Progress {
    /// Bytes read of `total`, files done; hidden unless stderr is a terminal and the user wants to be told.
    pub fn of_bytes(total: Option<u64>, quiet: bool) -> Self {
        let template = match total {
            Some(_) => "{bytes}/{total_bytes} {wide_bar} {msg} {binary_bytes_per_sec} {eta} left",
            None => "{spinner} {bytes} {msg} {binary_bytes_per_sec}",
        };
        Self::new(total, template, quiet)
    }

    /// Objects looked at.
    pub fn of_objects(quiet: bool) -> Self {
        Self::new(None, "{spinner} {human_pos} objects {msg}", quiet)
    }

    fn new(total: Option<u64>, template: &str, quiet: bool) -> Self {
        let hidden = quiet || !std::io::stderr().is_terminal();
        let target = if hidden { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr_with_hz(10) };
        let bar = ProgressBar::with_draw_target(total, target);
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Self(bar)
    }

    /// Adds to what is done.
    pub fn add(&self, n: u64) {
        self.0.inc(n);
    }

    /// Says how far it is in other words.
    pub fn say(&self, message: String) {
        if !self.0.is_hidden() {
            self.0.set_message(message);
        }
    }

    /// Prints something while the line is out of the way.
    pub fn aside<T>(&self, print: impl FnOnce() -> T) -> T {
        self.0.suspend(print)
    }

    /// Takes the line away.
    pub fn finish(&self) {
        self.0.finish_and_clear();
    }
}
