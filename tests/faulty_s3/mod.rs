//! An S3 server that fails as S3 and networks do: in this process, seeded, with its objects in memory.

#![allow(dead_code, unused_imports, reason = "each test binary uses a part of this")]

mod bucket;

pub use bucket::{BUCKET, Bucket, Written};

use crate::common::store::Files;
use crate::common::{Dice, Ran, gravity, run};
use bytes::Bytes;
use futures::StreamExt;
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use s3s::auth::{S3Auth, SecretKey};
use s3s::service::{S3ServiceBuilder, SharedS3Service};
use s3s::{S3Error, S3ErrorCode, S3Result};
use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::io;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};

/// What can go wrong with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// 500, nothing done.
    InternalError,
    /// 503, nothing done.
    SlowDown,
    /// No answer at all, nothing done.
    Silence,
    /// The connection is reset before anything is done.
    Reset,
    /// It is done, and the connection is reset instead of an answer.
    LostAnswer,
    /// Half of a GET's body, then the connection is reset.
    CutBody,
    /// Half of a GET's body, then nothing.
    StalledBody,
    /// A GET's body with a bit changed.
    ChangedBody,
    /// 409 to a conditional PUT: another one is under way. Nothing done.
    Conflict,
    /// 412 to a conditional PUT, whatever is there. Nothing done.
    Precondition,
    /// 400 that says the credentials have expired.
    ExpiredToken,
    /// 403 that says the clock is wrong.
    SkewedTime,
}

impl Fault {
    /// Those that come at random, and soon show.
    pub const QUICK: [Self; 7] = [
        Self::InternalError,
        Self::SlowDown,
        Self::Reset,
        Self::LostAnswer,
        Self::CutBody,
        Self::Conflict,
        Self::Precondition,
    ];

    fn fits(self, request: &Request<Incoming>) -> bool {
        let conditional = ["if-match", "if-none-match"].iter().any(|name| request.headers().contains_key(*name));
        match self {
            Self::CutBody | Self::StalledBody | Self::ChangedBody => {
                request.method() == Method::GET && request.uri().query().is_none_or(|q| !q.contains("list-type"))
            }
            Self::Conflict | Self::Precondition => request.method() == Method::PUT && conditional,
            _ => true,
        }
    }

    fn error(self) -> Option<S3Error> {
        let (code, status) = match self {
            Self::InternalError => (S3ErrorCode::InternalError, StatusCode::INTERNAL_SERVER_ERROR),
            Self::SlowDown => (S3ErrorCode::SlowDown, StatusCode::SERVICE_UNAVAILABLE),
            Self::Conflict => (S3ErrorCode::ConditionalRequestConflict, StatusCode::CONFLICT),
            Self::Precondition => (S3ErrorCode::PreconditionFailed, StatusCode::PRECONDITION_FAILED),
            Self::ExpiredToken => (S3ErrorCode::ExpiredToken, StatusCode::BAD_REQUEST),
            Self::SkewedTime => (S3ErrorCode::RequestTimeTooSkewed, StatusCode::FORBIDDEN),
            _ => return None,
        };
        let mut error = S3Error::with_message(code, "injected");
        error.set_status_code(status);
        Some(error)
    }
}

/// A fault for a request to come.
struct Ordered {
    method: Method,
    folder: String,
    fault: Fault,
}

#[derive(Default)]
struct Control {
    /// Share of the requests that fail, of 1,000, the faults they fail with, and the dice.
    random: Option<(u64, Vec<Fault>, Dice)>,
    ordered: VecDeque<Ordered>,
    /// Until then every request is answered `SlowDown`.
    throttled_until: Option<Instant>,
    injected: HashMap<Fault, u64>,
    requests: u64,
}

impl Control {
    fn fault(&mut self, request: &Request<Incoming>) -> Option<Fault> {
        self.requests += 1;
        if self.throttled_until.is_some_and(|until| Instant::now() < until) {
            return Some(Fault::SlowDown);
        }
        let path = request.uri().path().replace("%3D", "=");
        let key = path.strip_prefix(&format!("/{BUCKET}/")).unwrap_or_default();
        let at = self.ordered.iter().position(|ordered| {
            request.method() == ordered.method && key.starts_with(&ordered.folder) && ordered.fault.fits(request)
        });
        if let Some(ordered) = at.and_then(|at| self.ordered.remove(at)) {
            return Some(ordered.fault);
        }
        let (rate, faults, dice) = self.random.as_mut()?;
        if dice.roll(1000) >= *rate {
            return None;
        }
        let fitting: Vec<_> = faults.iter().filter(|fault| fault.fits(request)).collect();
        (!fitting.is_empty()).then(|| *fitting[dice.roll(fitting.len() as u64) as usize])
    }
}

/// Access keys and their secrets; one that is not there has expired.
#[derive(Clone)]
struct Keys(Arc<Mutex<HashMap<String, SecretKey>>>);

#[async_trait::async_trait]
impl S3Auth for Keys {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        let expired = || Fault::ExpiredToken.error().unwrap();
        self.0.lock().unwrap().get(access_key).cloned().ok_or_else(expired)
    }
}

/// The server. It ends when this is dropped.
pub struct FaultyS3 {
    pub bucket: Bucket,
    pub address: String,
    control: Arc<Mutex<Control>>,
    keys: Keys,
    _runtime: tokio::runtime::Runtime,
}

pub const ACCESS_KEY: &str = "gravity-test";
pub const SECRET_KEY: &str = "gravity-test-secret";

impl FaultyS3 {
    /// A server that does not fail yet.
    pub fn start() -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let bucket = Bucket::default();
        let keys = Keys(Arc::default());
        let mut builder = S3ServiceBuilder::new(bucket.clone());
        builder.set_auth(keys.clone());
        let service = builder.build().into_shared();
        let control: Arc<Mutex<Control>> = Arc::default();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port");
        let address = format!("http://{}", listener.local_addr().expect("an address"));
        let of_server = control.clone();
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, service.clone(), of_server.clone()));
            }
        });
        let server = Self { bucket, address, control, keys, _runtime: runtime };
        server.accept_key(ACCESS_KEY);
        server
    }

    fn control<T>(&self, change: impl FnOnce(&mut Control) -> T) -> T {
        change(&mut self.control.lock().unwrap())
    }

    /// From now on so many requests of 1,000 fail, one way or another.
    pub fn fail(&self, of_1000: u64, faults: &[Fault], seed: u64) {
        self.control(|control| control.random = Some((of_1000, faults.to_vec(), Dice::new(seed))));
    }

    pub fn fail_no_more(&self) {
        self.control(|control| {
            control.random = None;
            control.ordered.clear();
        });
    }

    /// The next request with this method below this folder fails this way.
    pub fn fail_next(&self, method: Method, folder: &str, fault: Fault) {
        self.control(|c| c.ordered.push_back(Ordered { method, folder: folder.into(), fault }));
    }

    pub fn throttle_for(&self, time: Duration) {
        self.control(|control| control.throttled_until = Some(Instant::now() + time));
    }

    /// How often this fault came so far.
    pub fn injected(&self, fault: Fault) -> u64 {
        self.control(|control| control.injected.get(&fault).copied().unwrap_or(0))
    }

    pub fn all_injected(&self) -> u64 {
        self.control(|control| control.injected.values().sum())
    }

    pub fn requests(&self) -> u64 {
        self.control(|control| control.requests)
    }

    pub fn accept_key(&self, access_key: &str) {
        self.keys.0.lock().unwrap().insert(access_key.into(), SECRET_KEY.into());
    }

    pub fn expire_key(&self, access_key: &str) {
        self.keys.0.lock().unwrap().remove(access_key);
    }

    /// What a client needs to know.
    pub fn variables(&self) -> [(&'static str, String); 4] {
        [
            ("AWS_ENDPOINT_URL", self.address.clone()),
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY.into()),
            ("AWS_SECRET_ACCESS_KEY", SECRET_KEY.into()),
            ("AWS_REGION", "us-east-1".into()),
        ]
    }

    /// The program with that command, of one word or two.
    pub fn command(&self, words: &str) -> Command {
        let mut command = gravity();
        command.args(words.split(' ')).args(["--store", &format!("s3://{BUCKET}")]).envs(self.variables());
        // What the operating system notices at once need not take half a minute in a test.
        command.env("REQUEST_TIMEOUT", "1s");
        command
    }

    pub fn run(&self, name: &str, args: &[&str]) -> Ran {
        run(self.command(name).args(args))
    }

    pub fn files(&self) -> Files {
        Files(self.bucket.objects())
    }
}

type Body = BoxBody<Bytes, io::Error>;

async fn serve(stream: TcpStream, service: SharedS3Service, control: Arc<Mutex<Control>>) {
    // What is closed from here is reset.
    let _ = stream.set_zero_linger();
    let _ = stream.set_nodelay(true);
    let answer = hyper::service::service_fn(move |request| {
        let (service, control) = (service.clone(), control.clone());
        async move { answer(request, &service, &control).await }
    });
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
}

/// An error in place of an answer resets the connection.
async fn answer(
    request: Request<Incoming>,
    service: &SharedS3Service,
    control: &Mutex<Control>,
) -> io::Result<Response<Body>> {
    let reset = || Err(io::Error::other("injected"));
    let fault = {
        let mut control = control.lock().unwrap();
        let fault = control.fault(&request);
        if let Some(fault) = fault {
            *control.injected.entry(fault).or_default() += 1;
        }
        fault
    };
    if let Some(error) = fault.and_then(Fault::error) {
        // A server reads what it refuses, or the client could not read the answer.
        let _ = request.into_body().collect().await;
        return whole(error.to_hyper_response().map_err(io::Error::other)?).await;
    }
    match fault {
        Some(Fault::Silence) => std::future::pending().await,
        Some(Fault::Reset) => return reset(),
        _ => {}
    }
    let response = service.as_ref().call(request.map(s3s::Body::from)).await.map_err(io::Error::other)?;
    if fault == Some(Fault::LostAnswer) {
        return reset();
    }
    let is_body = response.status().is_success();
    let mut response = whole(response).await?;
    let (Some(fault), true) = (fault, is_body) else { return Ok(response) };
    let body = std::mem::take(response.body_mut()).collect().await?.to_bytes();
    *response.body_mut() = damaged(body, fault);
    Ok(response)
}

/// A response whose body is in memory.
async fn whole(response: Response<s3s::Body>) -> io::Result<Response<Body>> {
    let (head, body) = response.into_parts();
    let body = BodyExt::collect(body).await.map_err(io::Error::other)?.to_bytes();
    Ok(Response::from_parts(head, Full::new(body).map_err(|never: Infallible| match never {}).boxed()))
}

fn damaged(body: Bytes, fault: Fault) -> Body {
    let half = body.slice(..body.len() / 2);
    let then: futures::future::BoxFuture<'static, io::Result<Frame<Bytes>>> = match fault {
        Fault::StalledBody => Box::pin(std::future::pending()),
        Fault::ChangedBody => {
            let mut rest = body[half.len()..].to_vec();
            if let Some(byte) = rest.first_mut() {
                *byte ^= 1;
            }
            Box::pin(async { Ok(Frame::data(rest.into())) })
        }
        _ => Box::pin(async {
            // What was sent before an error would not leave with it.
            tokio::time::sleep(Duration::from_millis(5)).await;
            Err(io::Error::other("injected"))
        }),
    };
    let frames = futures::stream::iter([Ok(Frame::data(half))]).chain(futures::stream::once(then));
    // `BoxBody` asks for `Sync`, which a boxed future is not.
    BodyExt::boxed(StreamBody::new(SyncStream(Mutex::new(Box::pin(frames)))))
}

/// A stream behind a lock that is never contended.
struct SyncStream<S>(Mutex<std::pin::Pin<Box<S>>>);

impl<S: futures::Stream> futures::Stream for SyncStream<S> {
    type Item = S::Item;

    fn poll_next(
        self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<S::Item>> {
        self.0.lock().unwrap().as_mut().poll_next(context)
    }
}
