//! The HTTP listener: `/healthz`, `/readyz`, `/metrics`. It shows nothing of content, and has no way to change
//! anything; still it listens on loopback unless told otherwise.

use crate::exit::Failure;
use crate::health::{Health, Readiness};
use crate::metrics;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::task::AbortOnDropHandle;

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// Nowhere.
    Off,
    /// On this host and port; port 0 takes a free one.
    At(String),
}

impl Listen {
    /// The port that a worker has by default.
    pub const DEFAULT: &str = "127.0.0.1:9464";
}

/// Requests answered at a time; more wait.
const CONNECTIONS: usize = 32;
/// How long one may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// Listens until it is dropped.
pub struct Listener {
    /// Where it is.
    pub address: SocketAddr,
    _task: AbortOnDropHandle<()>,
}

impl Listener {
    /// Begins to listen.
    ///
    /// # Errors
    /// If the address is not to be had.
    pub async fn open(at: &str, health: Arc<Health>) -> Result<Self, Failure> {
        let refused = |e| {
            let advice = "give another address, or `off`";
            Failure::Failed(format!("cannot listen on {at} (--listen, GRAVITY_LISTEN): {e}; {advice}"))
        };
        let listener = TcpListener::bind(at).await.map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        Ok(Self { address, _task: AbortOnDropHandle::new(tokio::spawn(accept(listener, health))) })
    }
}

async fn accept(listener: TcpListener, health: Arc<Health>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // The semaphore is never closed.
        let permit = room.clone().acquire_owned().await.ok();
        match listener.accept().await {
            Ok((connection, _)) => {
                let health = health.clone();
                tokio::spawn(async move {
                    let _permit = permit;
                    let _ = tokio::time::timeout(PATIENCE, serve(connection, health)).await;
                });
            }
            Err(error) => {
                // Too many open files, mostly: it passes.
                tracing::debug!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve(connection: TcpStream, health: Arc<Health>) {
    let service = service_fn(move |request| {
        let health = health.clone();
        async move { Ok::<_, Infallible>(answer(&request, &health).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(5))
        .keep_alive(false)
        .serve_connection(TokioIo::new(connection), service);
    if let Err(error) = served.await {
        tracing::debug!(%error, "a request for health or metrics broke off");
    }
}

async fn answer(request: &Request<Incoming>, health: &Health) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return response(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET and HEAD\n".into());
    }
    match request.uri().path() {
        "/healthz" => response(StatusCode::OK, TEXT, "alive\n".into()),
        "/readyz" => {
            let Readiness { ready, text } = health.readiness().await;
            response(if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, TEXT, text)
        }
        "/metrics" => response(StatusCode::OK, metrics::CONTENT_TYPE, health.metrics().await),
        _ => response(StatusCode::NOT_FOUND, TEXT, "/healthz, /readyz or /metrics\n".into()),
    }
}

const TEXT: &str = "text/plain; charset=utf-8";

fn response(status: StatusCode, kind: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
