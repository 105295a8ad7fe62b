//! The metrics that every Prometheus client gives of its own process, as far as `/proc` tells them.

use std::fmt::Write;
use std::fs;
use std::time::SystemTime;

/// This process.
#[derive(Debug)]
pub struct Process {
    started: SystemTime,
}

/// In `/proc`, times are in hundredths of a second on every architecture.
const TICKS_PER_SECOND: f64 = 100.0;

impl Process {
    /// Begins now.
    pub fn new() -> Self {
        Self { started: SystemTime::now() }
    }

    /// In the Prometheus text format. What the system does not tell is left out.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let mut add = |name: &str, kind: &str, help: &str, value: Option<f64>| {
            if let Some(value) = value {
                let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
            }
        };
        let started = self.started.duration_since(SystemTime::UNIX_EPOCH).ok().map(|since| since.as_secs_f64());
        add("process_start_time_seconds", "gauge", "When the process started, in seconds since 1970.", started);
        add("process_cpu_seconds_total", "counter", "Processor time, user and system.", cpu_seconds());
        add("process_resident_memory_bytes", "gauge", "Resident memory.", resident_bytes());
        add("process_open_fds", "gauge", "Open file descriptors.", count("/proc/self/fd"));
        add("process_max_fds", "gauge", "The most file descriptors that may be open.", max_fds());
        out
    }
}

fn cpu_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The second field, the program's name, may hold anything; behind it `state` is the third.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let (user, system) = (fields.next()?.parse::<f64>().ok()?, fields.next()?.parse::<f64>().ok()?);
    Some((user + system) / TICKS_PER_SECOND)
}

fn resident_bytes() -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(kib.trim().strip_suffix("kB")?.trim().parse::<f64>().ok()? * 1024.0)
}

fn count(folder: &str) -> Option<f64> {
    // One of them is the folder that is being read.
    Some(fs::read_dir(folder).ok()?.count().saturating_sub(1) as f64)
}

fn max_fds() -> Option<f64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let limit = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    limit.split_ascii_whitespace().next()?.parse().ok()
}
