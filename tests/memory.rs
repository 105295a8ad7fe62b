//! Memory is bounded by configuration, not by input. Linux only: the peak is read from /proc.

#![allow(clippy::unwrap_used, clippy::expect_used)]
#![cfg(target_os = "linux")]

mod common;

use common::otlp::{document, span};
use common::{Dice, Place, finish, start};
use std::io::Write;
use std::process::{Child, Stdio};
use std::time::Duration;

/// The most memory that a process has had so far; `None` once it has ended.
fn peak_mib(child: &Child) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? / 1024)
}

/// Pipes `count` copies of a document, each with ids of its own, through `gravity ingest`; gives the peak and the
/// bytes.
fn ingest(document: &str, count: u32) -> (u64, u64) {
    let place = Place::new();
    let mut child = start(place.command("ingest").stdin(Stdio::piped()));
    let mut stdin = child.stdin.take().unwrap();
    let document = document.to_owned();
    let writer = std::thread::spawn(move || {
        let mut bytes = 0;
        for n in 1..=count {
            // The span's trace is any of 1,000.
            let copy =
                document.replace("0000ffff", &format!("{:08x}", n % 1000 + 1)).replace("0000eeee", &format!("{n:08x}"));
            stdin.write_all(copy.as_bytes()).unwrap();
            bytes += copy.len() as u64;
        }
        bytes
    });
    let mut stdout = child.stdout.take().unwrap();
    let drain = std::thread::spawn(move || std::io::copy(&mut stdout, &mut std::io::sink()));
    let mut peak = 0;
    while child.try_wait().unwrap().is_none() {
        peak = peak_mib(&child).map_or(peak, |now| peak.max(now));
        std::thread::sleep(Duration::from_millis(10));
    }
    let bytes = writer.join().unwrap();
    drain.join().unwrap().unwrap();
    finish(child).exits(0);
    (peak, bytes)
}

#[test]
fn a_batch_of_300_mb_needs_no_more_memory_than_one_of_30() {
    let mut dice = Dice::new(5);
    // A chat: the same 256 KiB of lines in each document, under other ids.
    let lines: Vec<_> = (0..256).map(|_| dice.letters(1024)).collect();
    let chat = document(&[span(0xffff, 0xeeee).input(&lines.join("\n"))]);
    let (small, bytes) = ingest(&chat, 120);
    assert!(bytes > 30_000_000);
    let (large, bytes) = ingest(&chat, 1200);
    assert!(bytes > 300_000_000);
    eprintln!("peak memory: {small} MiB for 30 MB, {large} MiB for 300 MB");
    assert!(large < 128, "{large} MiB");
    assert!(large < small + 32, "{small} MiB for 30 MB, {large} MiB for 300 MB");
}
