//! What the tests of the program share: they run the binary as a user would, and look at the store it leaves.

// Each test binary uses a part of this.
#![allow(dead_code)]

pub mod cloud;
pub mod gate;
pub mod line;
pub mod otlp;
pub mod packed;
pub mod running;
pub mod store;

use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The program, with none of the caller's settings.
pub fn gravity() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gravity"));
    // The SDK would otherwise ask the network for what is not set.
    command.env_clear().env("AWS_EC2_METADATA_DISABLED", "true");
    // Many workers run at the same time.
    command.env("GRAVITY_LISTEN", "off");
    for kept in ["PATH", "TMPDIR", "LLVM_PROFILE_FILE"] {
        if let Some(value) = std::env::var_os(kept) {
            command.env(kept, value);
        }
    }
    command
}

/// What a run came to.
pub struct Ran {
    pub stdout: Vec<u8>,
    pub stderr: String,
    pub code: i32,
}

impl Ran {
    /// Passes if the program ended with this code; its stderr is told otherwise.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, code, "exit code; stderr:\n{}", self.stderr);
        self
    }

    /// Passes if stderr holds all of these.
    #[track_caller]
    pub fn says(self, words: &[&str]) -> Self {
        for word in words {
            assert!(self.stderr.contains(word), "{word:?} is not in stderr:\n{}", self.stderr);
        }
        self
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).expect("stdout is text")
    }

    /// Stdout as JSON Lines.
    pub fn lines(&self) -> Vec<serde_json::Value> {
        self.text().lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
    }

    /// Stdout as one JSON value.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.stdout).expect("JSON")
    }

    fn from_output(output: Output) -> Self {
        Self {
            stdout: output.stdout,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            code: output.status.code().unwrap_or(-1),
        }
    }
}

/// Runs a command to its end with an empty stdin.
pub fn run(command: &mut Command) -> Ran {
    Ran::from_output(command.stdin(Stdio::null()).output().expect("the program starts"))
}

/// Runs a command to its end with this on stdin.
pub fn run_with_stdin(command: &mut Command, stdin: &[u8]) -> Ran {
    let mut child = start(command.stdin(Stdio::piped()));
    let mut pipe = child.stdin.take().expect("a pipe");
    std::thread::scope(|scope| {
        // A program that gives up early closes the pipe.
        scope.spawn(move || pipe.write_all(stdin).ok());
        Ran::from_output(child.wait_with_output().expect("the program ends"))
    })
}

/// Starts a command whose output is read later.
pub fn start(command: &mut Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts")
}

/// Waits for a child that `start` started.
pub fn finish(child: Child) -> Ran {
    Ran::from_output(child.wait_with_output().expect("the program ends"))
}

/// Sends a signal by its name.
pub fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill").args(["-s", name, &child.id().to_string()]).status().expect("kill runs");
    assert!(sent.success(), "kill -s {name}");
}

/// Waits until `happened`, for half a minute at most.
#[track_caller]
pub fn wait_until(what: &str, mut happened: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !happened() {
        assert!(Instant::now() < deadline, "{what}: did not happen");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A folder of its own for one test: `data` in it is the store, beside it are input files.
pub struct Place {
    pub folder: TempDir,
}

impl Place {
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a temporary folder") }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The store's folder.
    pub fn data(&self) -> PathBuf {
        self.path("data")
    }

    /// The program with that command on this store, in this folder.
    pub fn command(&self, name: &str) -> Command {
        let mut command = gravity();
        command.current_dir(self.folder.path()).arg(name).args(["--store", "data"]);
        command
    }

    /// Runs a command on this store to its end.
    pub fn run<S: AsRef<OsStr>>(&self, name: &str, args: &[S]) -> Ran {
        run(self.command(name).args(args))
    }

    /// Ingests what comes on stdin.
    pub fn ingest(&self, bytes: &[u8]) -> Ran {
        run_with_stdin(&mut self.command("ingest"), bytes)
    }

    /// What `reconstruct` prints of a trace.
    #[track_caller]
    pub fn content(&self, trace: &str) -> Vec<u8> {
        self.run("reconstruct", &[trace]).exits(0).stdout
    }

    /// Writes a file beside the store, or below `data/` into it as a collector would.
    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder is made");
        fs::write(&path, bytes).expect("a file is written");
        path
    }

    /// The store as it is on disk.
    pub fn store(&self) -> store::Files {
        store::Files::of(&self.data())
    }
}

/// One gzip member.
pub fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut member = Vec::new();
    flate2::read::GzEncoder::new(bytes, flate2::Compression::fast()).read_to_end(&mut member).expect("gzip");
    member
}

/// One zstd frame.
pub fn zst(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 3).expect("zstd")
}

/// The batches that come with the repository.
pub fn samples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("dev/sample/raw-spans")
}

/// Numbers that look random and are the same in every run (xorshift).
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn roll(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % below
    }

    /// Letters that gzip cannot make much smaller.
    pub fn letters(&mut self, count: usize) -> String {
        const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+-";
        (0..count).map(|_| char::from(LETTERS[self.roll(64) as usize])).collect()
    }
}
