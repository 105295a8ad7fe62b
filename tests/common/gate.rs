//! A proxy between the program and S3 that can hold back the answers to certain GETs, or deny them.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::thread;
use std::time::Duration;

/// What happens to a GET whose path holds the gate's word. Everything else passes.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Way {
    Open,
    Held,
    Denied,
}

/// The proxy. It ends with the test.
pub struct Gate {
    pub endpoint: String,
    way: Arc<AtomicU8>,
    held: Arc<AtomicU8>,
}

impl Gate {
    pub fn new(server: &str, word: &'static str, way: Way) -> Self {
        let server = server.trim_start_matches("http://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
        let way = Arc::new(AtomicU8::new(way as u8));
        let held = Arc::new(AtomicU8::new(0));
        let (ways, count) = (way.clone(), held.clone());
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(&server) else { continue };
                let gate = Lane { word, way: ways.clone(), held: count.clone(), asked: Arc::default() };
                let answers = (server.try_clone().expect("a socket"), client.try_clone().expect("a socket"));
                let lane = gate.clone();
                thread::spawn(move || lane.answers(answers.0, answers.1));
                thread::spawn(move || gate.requests(client, server));
            }
        });
        Self { endpoint, way, held }
    }

    pub fn set(&self, way: Way) {
        self.way.store(way as u8, Ordering::SeqCst);
    }

    /// Answers that wait at the gate, or have.
    pub fn held(&self) -> u8 {
        self.held.load(Ordering::SeqCst)
    }
}

/// What the two directions of a connection share.
#[derive(Clone)]
struct Lane {
    word: &'static str,
    way: Arc<AtomicU8>,
    held: Arc<AtomicU8>,
    /// The next answer is to a GET of the word.
    asked: Arc<AtomicBool>,
}

impl Lane {
    fn is(&self, way: Way) -> bool {
        self.way.load(Ordering::SeqCst) == way as u8
    }

    fn answers(&self, mut server: TcpStream, mut client: TcpStream) {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(count @ 1..) = server.read(&mut buffer) {
            if self.asked.swap(false, Ordering::SeqCst) && self.is(Way::Held) {
                self.held.fetch_add(1, Ordering::SeqCst);
                while self.is(Way::Held) {
                    thread::sleep(Duration::from_millis(5));
                }
            }
            if client.write_all(&buffer[..count]).is_err() {
                break;
            }
        }
        client.shutdown(Shutdown::Both).ok();
    }

    /// A client sends one request at a time, so what arrives at once begins with its first line.
    fn requests(&self, mut client: TcpStream, mut server: TcpStream) {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(count @ 1..) = client.read(&mut buffer) {
            let line = buffer[..count].split(|&byte| byte == b'\r').next().unwrap_or_default();
            let line = String::from_utf8_lossy(line);
            let is_asked = line.starts_with("GET ") && line.contains(self.word);
            if is_asked && self.is(Way::Denied) {
                let body = "<Error><Code>AccessDenied</Code><Message>No.</Message></Error>";
                let answer = format!("HTTP/1.1 403 Forbidden\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                if client.write_all(answer.as_bytes()).is_err() {
                    break;
                }
                continue;
            }
            self.asked.store(is_asked, Ordering::SeqCst);
            if server.write_all(&buffer[..count]).is_err() {
                break;
            }
        }
        server.shutdown(Shutdown::Both).ok();
    }
}
