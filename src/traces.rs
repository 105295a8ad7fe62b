//! Export of the worker's own traces over OTLP (http/protobuf): a span for each batch, and below it one for each
//! stage. `OTEL_EXPORTER_OTLP_ENDPOINT` switches it on; the other `OTEL_` variables mean what OpenTelemetry says.

use async_trait::async_trait;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider;
use opentelemetry_http::{HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::runtime::Handle;
use tracing::Subscriber;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::registry::LookupSpan;

/// The export, if there is one.
pub struct Traces(Option<SdkTracerProvider>);

/// How long the last spans may take to leave when the worker ends.
const LAST_WORDS: Duration = Duration::from_secs(3);
/// An answer says little.
const ANSWER_BYTES: usize = 1 << 20;

impl Traces {
    /// Starts the export if the environment asks for it and there is a runtime to send in; also why not, if it asks
    /// for what cannot be.
    pub fn start(runtime: Option<&Handle>) -> (Self, Option<String>) {
        let Some(runtime) = runtime.filter(|_| is_asked_for()) else { return (Self(None), None) };
        match provider(runtime) {
            Ok(provider) => (Self(Some(provider)), None),
            Err(why_not) => (Self(None), Some(why_not)),
        }
    }

    /// What turns the pipeline's spans into exported ones.
    pub fn layer<S>(&self) -> Option<impl Layer<S> + use<S>>
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        let tracer = self.0.as_ref()?.tracer("gravity");
        let layer = tracing_opentelemetry::layer().with_tracer(tracer).with_tracked_inactivity(false);
        let layer = layer.with_threads(false).with_location(false).with_target(false).with_level(false);
        // Not those of the libraries below, and no log lines.
        Some(layer.with_filter(filter_fn(|it| it.is_span() && it.target().starts_with("gravity_pipeline"))))
    }

    /// Sends what is left.
    pub fn flush(&self) {
        if let Some(provider) = &self.0 {
            // Whoever receives them has been found missing before.
            let _ = provider.shutdown_with_timeout(LAST_WORDS);
        }
    }
}

/// A variable that is set to nothing is not set.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// A setting of this signal, or of all.
fn setting(name: &str) -> Option<String> {
    let of_traces = variable(&format!("OTEL_EXPORTER_OTLP_TRACES_{name}"));
    of_traces.or_else(|| variable(&format!("OTEL_EXPORTER_OTLP_{name}")))
}

fn is_asked_for() -> bool {
    let off = variable("OTEL_SDK_DISABLED").is_some_and(|disabled| disabled.eq_ignore_ascii_case("true"));
    let none = variable("OTEL_TRACES_EXPORTER").is_some_and(|exporter| exporter == "none");
    setting("ENDPOINT").is_some() && !off && !none
}

fn provider(runtime: &Handle) -> Result<SdkTracerProvider, String> {
    if let Some(protocol) = setting("PROTOCOL").filter(|protocol| protocol != "http/protobuf") {
        return Err(format!("OTEL_EXPORTER_OTLP_PROTOCOL={protocol}: only http/protobuf is there (port 4318, mostly)"));
    }
    let timeout = setting("TIMEOUT").and_then(|timeout| timeout.parse().ok()).unwrap_or(10_000);
    let client = Sender::new(runtime, Duration::from_millis(timeout))?;
    let exporter = SpanExporter::builder().with_http().with_protocol(Protocol::HttpBinary).with_http_client(client);
    let exporter = exporter.build().map_err(|e| e.to_string())?;
    let mut resource = Resource::builder().with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
    let named = variable("OTEL_RESOURCE_ATTRIBUTES").is_some_and(|attributes| attributes.contains("service.name="));
    if !named && variable("OTEL_SERVICE_NAME").is_none() {
        resource = resource.with_service_name("gravity");
    }
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource.build()).build())
}

/// Sends requests in the program's runtime, since the exporter has a thread of its own without one.
#[derive(Debug)]
struct Sender {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    runtime: Handle,
    timeout: Duration,
    failing: AtomicBool,
}

impl Sender {
    fn new(runtime: &Handle, timeout: Duration) -> Result<Self, String> {
        let roots = HttpsConnectorBuilder::new()
            .with_provider_and_native_roots(rustls::crypto::ring::default_provider())
            .map_err(|e| format!("the system's certificates: {e}"))?;
        let connector = roots.https_or_http().enable_http1().build();
        let client = Client::builder(TokioExecutor::new()).build(connector);
        Ok(Self { client, runtime: runtime.clone(), timeout, failing: AtomicBool::new(false) })
    }

    /// One line when it begins to fail and one when it works again, however long that takes.
    fn tell(&self, failed: Option<String>) {
        let failing = failed.is_some();
        let was_failing = self.failing.swap(failing, Ordering::Relaxed);
        match failed {
            Some(error) if !was_failing => {
                tracing::warn!(error, "traces cannot be exported; they are dropped meanwhile")
            }
            None if was_failing => tracing::info!("traces are exported again"),
            _ => {}
        }
    }
}

#[async_trait]
impl HttpClient for Sender {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (client, timeout) = (self.client.clone(), self.timeout);
        let exchange = async move {
            let (head, body) = client.request(request.map(Full::new)).await?.into_parts();
            let body = Limited::new(body, ANSWER_BYTES).collect().await?.to_bytes();
            Ok::<_, HttpError>(Response::from_parts(head, body))
        };
        // A time-out, too, must be made where the runtime is.
        let sent = self.runtime.spawn(async move { tokio::time::timeout(timeout, exchange).await }).await;
        let answer = match sent {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err("no answer in time".into()),
            Err(e) => Err(e.into()),
        };
        self.tell(match &answer {
            Ok(answer) if answer.status().is_success() => None,
            Ok(answer) => Some(format!("the server says {}", answer.status())),
            Err(e) => Some(e.to_string()),
        });
        answer
    }
}
