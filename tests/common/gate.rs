//! A proxy between the program and S3 that can hold or deny the reading of certain objects.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
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
                let (way, held) = (ways.clone(), count.clone());
                let answers = (server.try_clone().expect("a socket"), client.try_clone().expect("a socket"));
                thread::spawn(move || pass(answers.0, answers.1));
                thread::spawn(move || requests(client, server, word, &way, &held));
            }
        });
        Self { endpoint, way, held }
    }

    pub fn set(&self, way: Way) {
        self.way.store(way as u8, Ordering::SeqCst);
    }

    /// Requests that wait at the gate, or have.
    pub fn held(&self) -> u8 {
        self.held.load(Ordering::SeqCst)
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream) {
    std::io::copy(&mut from, &mut to).ok();
    to.shutdown(Shutdown::Both).ok();
}

/// A client sends one request at a time, so what arrives at once begins with its first line.
fn requests(mut client: TcpStream, mut server: TcpStream, word: &str, way: &AtomicU8, held: &AtomicU8) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count @ 1..) = client.read(&mut buffer) {
        let line = buffer[..count].split(|&byte| byte == b'\r').next().unwrap_or_default();
        let line = String::from_utf8_lossy(line);
        if line.starts_with("GET ") && line.contains(word) {
            if way.load(Ordering::SeqCst) == Way::Held as u8 {
                held.fetch_add(1, Ordering::SeqCst);
            }
            while way.load(Ordering::SeqCst) == Way::Held as u8 {
                thread::sleep(Duration::from_millis(5));
            }
            if way.load(Ordering::SeqCst) == Way::Denied as u8 {
                let body = "<Error><Code>AccessDenied</Code><Message>No.</Message></Error>";
                let answer = format!("HTTP/1.1 403 Forbidden\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                if client.write_all(answer.as_bytes()).is_err() {
                    break;
                }
                continue;
            }
        }
        if server.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    server.shutdown(Shutdown::Both).ok();
}
