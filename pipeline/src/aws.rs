//! What every client of AWS shares: how it is set up, and what its errors mean.

use crate::store::ErrorKind;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_http_client::{Builder as HttpClient, tls};
use std::time::Duration;

/// Longer than the longest answer that is waited for on purpose (20 s, a long poll of SQS).
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// Region and credentials from the SDK's usual chain: environment, profile, web identity, container, instance. What
/// is given goes before what the environment says.
pub(crate) async fn config(region: Option<String>, endpoint: Option<&str>) -> SdkConfig {
    let http =
        HttpClient::new().tls_provider(tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring)).build_https();
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .http_client(http)
        // `retry.rs` does it, so that there is one schedule and every attempt is counted.
        .retry_config(RetryConfig::disabled())
        .timeout_config(
            TimeoutConfig::builder().connect_timeout(Duration::from_secs(5)).read_timeout(READ_TIMEOUT).build(),
        );
    if let Some(region) = region {
        loader = loader.region(Region::new(region));
    }
    if let Some(endpoint) = endpoint {
        loader = loader.endpoint_url(endpoint);
    }
    loader.load().await
}

/// What kind of failure an error is, and what the server or the network said.
pub(crate) fn explain<E>(error: &SdkError<E>) -> (ErrorKind, String)
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    let status = error.raw_response().map_or(0, |response| response.status().as_u16());
    let code = error.as_service_error().and_then(|e| e.code());
    let kind = match (code, status, error) {
        (_, 412, _) => ErrorKind::Precondition,
        (Some("NoSuchBucket"), ..) => ErrorKind::NoStore,
        (Some("AWS.SimpleQueueService.NonExistentQueue" | "QueueDoesNotExist"), ..) => ErrorKind::NoQueue,
        // Two conditional writes at once: S3 asks to send it again.
        (Some("ConditionalRequestConflict" | "OperationAborted"), ..) => ErrorKind::Transient,
        (Some("SlowDown" | "RequestTimeout" | "RequestTimeTooSkewed"), ..) => ErrorKind::Transient,
        // SQS says so with status 400.
        (Some("RequestThrottled" | "ThrottlingException" | "KmsThrottled" | "OverLimit"), ..) => ErrorKind::Transient,
        (Some("QuotaExceeded" | "XMinioStorageFull"), ..) => ErrorKind::Full,
        (Some("AccessDeniedException" | "UnrecognizedClientException" | "InvalidSecurity"), ..) => ErrorKind::Denied,
        (_, 401 | 403, _) => ErrorKind::Denied,
        (_, 408 | 409 | 429 | 500..=599, _) => ErrorKind::Transient,
        (.., SdkError::TimeoutError(_) | SdkError::ResponseError(_)) => ErrorKind::Transient,
        (.., SdkError::DispatchFailure(e)) if e.is_io() || e.is_timeout() => ErrorKind::Transient,
        // No credentials to be found, or none that could be fetched.
        (.., SdkError::DispatchFailure(_)) => ErrorKind::Denied,
        _ => ErrorKind::Other,
    };
    let message = match error.as_service_error().and_then(|e| Some((e.code()?, e.message().unwrap_or_default()))) {
        Some((code, message)) => format!("{code} {message}").trim_end().to_owned(),
        None => with_causes(error),
    };
    (kind, message)
}

/// An error and what caused it, in a line.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        // Some errors show their cause themselves.
        if !line.contains(&text) {
            line = format!("{line}: {text}");
        }
        cause = error.source();
    }
    line
}
