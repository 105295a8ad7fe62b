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

/// Pipes `count` documents through `gravity ingest`; gives the peak and the bytes.
fn ingest(args: &[&str], count: u32, mut document: impl FnMut(u32) -> String + Send + 'static) -> (u64, u64) {
    let place = Place::new();
    let mut child = start(place.command("ingest").args(args).stdin(Stdio::piped()));
    let mut stdin = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || {
        let mut bytes = 0;
        for n in 1..=count {
            let document = document(n);
            stdin.write_all(document.as_bytes()).unwrap();
            bytes += document.len() as u64;
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

/// Passes if 300 MB need less memory than `most`, and hardly more than 30; `documents` are of about 256 KiB.
#[track_caller]
fn is_bounded<D: FnMut(u32) -> String + Send + 'static>(
    args: &[&str],
    (most, more): (u64, u64),
    documents: impl Fn() -> D,
) {
    let (small, bytes) = ingest(args, 120, documents());
    assert!(bytes > 30_000_000);
    let (large, bytes) = ingest(args, 1200, documents());
    assert!(bytes > 300_000_000);
    eprintln!("peak memory: {small} MiB for 30 MB, {large} MiB for 300 MB");
    assert!(large < most, "{large} MiB");
    assert!(large < small + more, "{small} MiB for 30 MB, {large} MiB for 300 MB");
}

/// A chat: the same 256 KiB of lines in each document, under other ids. The span's trace is any of 1,000.
fn chat() -> impl FnMut(u32) -> String + Send + 'static {
    let mut dice = Dice::new(5);
    let lines: Vec<_> = (0..256).map(|_| dice.letters(1024)).collect();
    let chat = document(&[span(0xffff, 0xeeee).input(&lines.join("\n"))]);
    move |n| chat.replace("0000ffff", &format!("{:08x}", n % 1000 + 1)).replace("0000eeee", &format!("{n:08x}"))
}

/// Texts of which none was there before, and which hardly compress.
fn new_texts() -> impl FnMut(u32) -> String + Send + 'static {
    let mut dice = Dice::new(6);
    move |n| {
        let lines: Vec<_> = (0..256).map(|_| dice.letters(1024)).collect();
        document(&[span(n % 1000 + 1, n).input(&lines.join("\n"))])
    }
}

#[test]
fn a_batch_of_300_mb_needs_no_more_memory_than_one_of_30() {
    is_bounded(&[], (128, 32), chat);
}

// Packed, what was stored before is known from a table of this size; its default takes 64 MiB more.
const PACKED: [&str; 4] = ["--layout", "packed", "--dedup-bytes", "1MiB"];

#[test]
fn packed_a_chat_of_300_mb_needs_no_more_memory_than_one_of_30() {
    is_bounded(&PACKED, (128, 32), chat);
}

#[test]
fn packed_300_mb_of_new_texts_need_no_more_memory_than_30() {
    // A pack, and the file that it becomes.
    is_bounded(&PACKED, (128, 40), new_texts);
}

#[test]
fn packed_a_value_over_the_limit_needs_a_few_times_the_limit() {
    // 64 MiB of it are looked at before it is known to be too long, in a buffer that doubles as it grows.
    let value = || {
        let long = "x".repeat(70 << 20);
        move |_| format!(r#"{{"resourceSpans":[],"long":"{long}"}}"#)
    };
    let (peak, _) = ingest(&PACKED, 1, value());
    eprintln!("peak memory: {peak} MiB for a value of 70 MiB");
    assert!(peak < 256, "{peak} MiB");
}
