//! A worker that runs while a test looks at it, and what it says over HTTP and in its log.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// A worker with a listener of its own.
pub struct Running {
    pub child: Child,
    /// Where it listens.
    pub address: String,
    log: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

impl Running {
    /// Starts this command on a free port, and returns once it listens.
    #[track_caller]
    pub fn start(command: &mut Command) -> Self {
        command.env("GRAVITY_LISTEN", "127.0.0.1:0");
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the program starts");
        let mut stderr = BufReader::new(child.stderr.take().expect("a pipe"));
        let log = Arc::new(Mutex::new(String::new()));
        let kept = log.clone();
        let reader = std::thread::spawn(move || {
            let mut line = String::new();
            while stderr.read_line(&mut line).is_ok_and(|read| read > 0) {
                kept.lock().expect("no test panics with it").push_str(&line);
                line.clear();
            }
        });
        let mut running = Self { child, address: String::new(), log, reader: Some(reader) };
        super::wait_until("it listens", || {
            let log = running.log();
            let line = log.lines().find(|line| line.contains("/healthz"));
            let address = line.and_then(|line| line.split("127.0.0.1:").nth(1));
            if let Some(port) = address.map(|rest| rest.chars().take_while(char::is_ascii_digit).collect::<String>()) {
                running.address = format!("127.0.0.1:{port}");
            }
            !running.address.is_empty()
        });
        running
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        self.log.lock().expect("no test panics with it").clone()
    }

    /// Asks for a path: status and body. `None` if nobody listens.
    pub fn get(&self, path: &str) -> Option<(u16, String)> {
        request(&self.address, &format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n"))
    }

    /// True if it says that it is ready.
    pub fn is_ready(&self) -> bool {
        self.get("/readyz").is_some_and(|(status, _)| status == 200)
    }

    /// All that it counts.
    #[track_caller]
    pub fn metrics(&self) -> Metrics {
        let (status, text) = self.get("/metrics").expect("it listens");
        assert_eq!(status, 200, "{text}");
        Metrics::parse(text)
    }

    /// Waits until it ends: exit code and log.
    #[track_caller]
    pub fn finish(mut self) -> (i32, String) {
        let status = self.child.wait().expect("it ends");
        let reader = self.reader.take().expect("it is joined once");
        reader.join().expect("it does not panic");
        (status.code().unwrap_or(-1), self.log())
    }

    /// Asks it to stop, and waits until it has.
    #[track_caller]
    pub fn stop(self) -> (i32, String) {
        super::signal(&self.child, "TERM");
        self.finish()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // A test that failed leaves nothing behind; one that is done has waited already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a request: status and body of the answer.
pub fn request(address: &str, request: &str) -> Option<(u16, String)> {
    let mut connection = TcpStream::connect(address).ok()?;
    connection.set_read_timeout(Some(Duration::from_secs(20))).ok()?;
    connection.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

/// An exposition, read by its own rules and not by the program's code.
pub struct Metrics {
    pub text: String,
    samples: BTreeMap<String, f64>,
}

impl Metrics {
    fn parse(text: String) -> Self {
        let samples = text.lines().filter(|line| !line.starts_with('#')).map(|line| {
            let (name, value) = line.rsplit_once(' ').expect("a name and a value");
            (name.to_owned(), value.parse().expect("a number"))
        });
        Self { samples: samples.collect(), text }
    }

    /// The sample of this name and labels, as it stands in the text.
    #[track_caller]
    pub fn value(&self, name: &str) -> f64 {
        *self.samples.get(name).unwrap_or_else(|| panic!("no {name} in\n{}", self.text))
    }

    /// Names of the families, with their types.
    pub fn families(&self) -> BTreeMap<&str, &str> {
        self.text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect()
    }

    /// Values of a label.
    pub fn label(&self, family: &str, label: &str) -> Vec<&str> {
        let of_family = self.samples.keys().filter(|name| name.starts_with(family));
        let mut values: Vec<_> = of_family
            .filter_map(|name| name.split_once(&format!("{label}=\""))?.1.split_once('"'))
            .map(|(value, _)| value)
            .collect();
        values.sort_unstable();
        values.dedup();
        values
    }
}
