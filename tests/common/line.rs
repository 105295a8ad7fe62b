//! A network line between the program and a server, for tests that cut it.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A line that can be cut and mended.
pub struct Line {
    /// Its near end.
    pub address: String,
    whole: Arc<AtomicBool>,
}

impl Line {
    /// A line to this host and port.
    pub fn to(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it has one").to_string();
        let whole = Arc::new(AtomicBool::new(true));
        let (state, target) = (whole.clone(), target.to_owned());
        std::thread::spawn(move || {
            // A connection over a cut line is closed at once.
            for near in listener.incoming().flatten().filter(|_| state.load(Ordering::Relaxed)) {
                let far = TcpStream::connect(&target).expect("the server is there");
                let back = (far.try_clone().expect("a handle"), near.try_clone().expect("a handle"));
                for (from, to) in [(near, far), back] {
                    let state = state.clone();
                    std::thread::spawn(move || carry(from, to, &state));
                }
            }
        });
        Self { address, whole }
    }

    /// Closes all connections, and every new one.
    pub fn cut(&self) {
        self.whole.store(false, Ordering::Relaxed);
    }

    /// Lets new connections through again.
    pub fn mend(&self) {
        self.whole.store(true, Ordering::Relaxed);
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, whole: &AtomicBool) {
    from.set_read_timeout(Some(Duration::from_millis(50))).expect("not zero");
    let mut piece = [0; 16 << 10];
    while whole.load(Ordering::Relaxed) {
        match from.read(&mut piece) {
            Ok(0) => break,
            Ok(read) if to.write_all(&piece[..read]).is_ok() => {}
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            _ => break,
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
