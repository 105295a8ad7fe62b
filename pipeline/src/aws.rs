//! What every client of AWS shares: how it is set up, and what its errors mean.

use crate::store::ErrorKind;
use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_http_client::{Builder as HttpClient, tls};
use std::time::Duration;

/// The longest wait for an answer, unless said otherwise: longer than what is waited for on purpose (20 s, a long poll
/// of SQS).
pub(crate) const TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Region and credentials from the SDK's usual chain: environment, profile, web identity, container, instance. What
/// is given goes before what the environment says. `timeout` is for an answer, from the request's first byte on, and for
/// the next bytes of one.
pub(crate) async fn config(region: Option<String>, endpoint: Option<&str>, timeout: Duration) -> SdkConfig {
    let http =
        HttpClient::new().tls_provider(tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring)).build_https();
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .http_client(http)
        // `retry.rs` does it, so that there is one schedule and every attempt is counted.
        .retry_config(RetryConfig::disabled())
        .timeout_config(
            TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT.min(timeout)).read_timeout(timeout).build(),
        )
        .stalled_stream_protection(StalledStreamProtectionConfig::enabled().grace_period(timeout).build());
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
    let message = match error.as_service_error().and_then(|e| Some((e.code()?, e.message().unwrap_or_default()))) {
        Some((code, message)) => format!("{code} {message}").trim_end().to_owned(),
        None => with_causes(error),
    };
    (kind(error), message)
}

fn kind<E: ProvideErrorMetadata>(error: &SdkError<E>) -> ErrorKind {
    match error.as_service_error().and_then(|e| e.code()) {
        Some("PreconditionFailed") => return ErrorKind::Precondition,
        Some("NoSuchBucket") => return ErrorKind::NoStore,
        Some("AWS.SimpleQueueService.NonExistentQueue" | "QueueDoesNotExist") => return ErrorKind::NoQueue,
        // Others may have been issued meanwhile: the SDK asks its provider again when they are about to expire.
        Some("ExpiredToken" | "ExpiredTokenException" | "RequestExpired") => return ErrorKind::Expired,
        Some("AccessDeniedException" | "UnrecognizedClientException" | "InvalidSecurity" | "InvalidToken") => {
            return ErrorKind::Denied;
        }
        // Two conditional writes at once: S3 asks to send it again.
        Some("ConditionalRequestConflict" | "OperationAborted") => return ErrorKind::Transient,
        Some("SlowDown" | "RequestTimeout" | "RequestTimeTooSkewed") => return ErrorKind::Transient,
        // SQS says so with status 400.
        Some("RequestThrottled" | "ThrottlingException" | "KmsThrottled" | "OverLimit") => {
            return ErrorKind::Transient;
        }
        // The request was changed or cut off on its way.
        Some("BadDigest" | "IncompleteBody" | "XAmzContentSHA256Mismatch") => return ErrorKind::Transient,
        Some("QuotaExceeded" | "XMinioStorageFull") => return ErrorKind::Full,
        _ => {}
    }
    match (error.raw_response().map_or(0, |response| response.status().as_u16()), error) {
        (412, _) => ErrorKind::Precondition,
        (401 | 403, _) => ErrorKind::Denied,
        // What a server does not know it will not know when it is asked again.
        (501, _) => ErrorKind::Other,
        (408 | 409 | 429 | 500..=599, _) => ErrorKind::Transient,
        (_, SdkError::TimeoutError(_) | SdkError::ResponseError(_)) => ErrorKind::Transient,
        // A connection that ended before the answer is "other", with a word on whether to try again.
        (_, SdkError::DispatchFailure(e)) if e.is_io() || e.is_timeout() || e.as_other().is_some() => {
            ErrorKind::Transient
        }
        // No credentials to be found, or none that could be fetched.
        (_, SdkError::DispatchFailure(_)) => ErrorKind::Denied,
        _ => ErrorKind::Other,
    }
}

/// An error and what caused it, in a line.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
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
