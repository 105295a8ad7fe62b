//! `gravity health`: asks a worker on this machine whether it is ready. A container without a shell has nothing else
//! that could.

use crate::cli::HealthArgs;
use crate::exit::{Done, Failure};
use crate::listener::Listen;
use std::io::Write;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longer than a worker takes to ask its store and queue.
const PATIENCE: Duration = Duration::from_secs(10);

/// Prints what the worker answers.
pub async fn run(args: HealthArgs) -> Result<Done, Failure> {
    let at = match args.listen {
        Some(Listen::Off) => {
            return Err(Failure::Usage("--listen off (GRAVITY_LISTEN): no worker answers there".into()));
        }
        Some(Listen::At(at)) => reachable(&at),
        None => Listen::DEFAULT.into(),
    };
    let asked = tokio::time::timeout(PATIENCE, ask(&at)).await;
    let answer = asked.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
    let answer =
        answer.map_err(|e| Failure::Failed(format!("no worker answers at {at} (--listen, GRAVITY_LISTEN): {e}")))?;
    let ready = answer.split(' ').nth(1) == Some("200");
    let text = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body).trim_end();
    writeln!(std::io::stdout(), "{text}").map_err(|e| Failure::stdout(&e))?;
    Ok(if ready { Done::Well } else { Done::WithFailures })
}

/// An address to connect to, for one to listen on: "all of this machine's" is none.
fn reachable(listen: &str) -> String {
    match listen.rsplit_once(':') {
        Some(("0.0.0.0", port)) => format!("127.0.0.1:{port}"),
        Some(("[::]", port)) => format!("[::1]:{port}"),
        _ => listen.to_owned(),
    }
}

/// The whole answer to a GET of `/readyz`, head and body.
async fn ask(at: &str) -> std::io::Result<String> {
    let mut connection = TcpStream::connect(at).await?;
    connection.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
    let mut answer = Vec::new();
    // A worker's answer is a few lines; whatever else listens there may say more than we want to hold.
    connection.take(64 << 10).read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
