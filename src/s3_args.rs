//! How a bucket is used: flags and variables that mean nothing for another store.

use crate::config::parse;
use clap::Args;
use gravity_pipeline::retry::Policy;
use gravity_pipeline::store::{Encryption, S3Settings, StorageClasses};
use std::time::Duration;

/// How the store is asked, and how a bucket keeps what is written.
#[derive(Debug, Args)]
#[command(next_help_heading = "S3")]
pub struct S3Args {
    /// How long a request that fails is tried again, and a batch without one that succeeds.
    #[arg(long, env = "RETRY_FOR", value_name = "TIME", default_value = "60s", value_parser = parse::duration("RETRY_FOR"))]
    pub retry_for: Duration,
    /// Longest wait for an answer, from a request's first byte on, or for the next bytes of an answer.
    #[arg(long, env = "REQUEST_TIMEOUT", value_name = "TIME", default_value = "30s", value_parser = parse::pause("REQUEST_TIMEOUT"))]
    pub request_timeout: Duration,
    /// How the server encrypts what is written [default: as the bucket says].
    #[arg(long, env = "S3_SSE", value_name = "AES256|aws:kms|aws:kms:dsse", value_parser = ["AES256", "aws:kms", "aws:kms:dsse"])]
    pub s3_sse: Option<String>,
    /// The KMS key, with aws:kms or aws:kms:dsse [default: the account's own key for S3].
    #[arg(long, env = "S3_SSE_KMS_KEY_ID", value_name = "ID|ARN|ALIAS", requires = "s3_sse")]
    pub s3_sse_kms_key_id: Option<String>,
    /// Storage classes by prefix, the longest one that fits counts [default: the bucket's].
    #[arg(long, env = "S3_STORAGE_CLASS", value_name = "PREFIX=CLASS,...", default_value = "", hide_default_value = true, value_parser = storage_classes)]
    pub s3_storage_class: StorageClasses,
}

impl S3Args {
    /// How often a failure is tried again.
    pub fn retry(&self) -> Policy {
        Policy { max_elapsed: self.retry_for, ..Policy::default() }
    }

    /// A bucket, used this way.
    ///
    /// # Errors
    /// If the options contradict each other.
    pub fn settings(&self, bucket: &str, prefix: &str) -> Result<S3Settings, String> {
        Ok(S3Settings {
            prefix: prefix.to_owned(),
            encryption: self.encryption()?,
            storage: self.s3_storage_class.clone(),
            timeout: self.request_timeout,
            retry: self.retry(),
            ..S3Settings::new(bucket)
        })
    }

    fn encryption(&self) -> Result<Option<Encryption>, String> {
        let key = self.s3_sse_kms_key_id.clone();
        Ok(match self.s3_sse.as_deref() {
            None => None,
            Some("AES256") if key.is_some() => {
                return Err("S3_SSE_KMS_KEY_ID names a key, and S3_SSE=AES256 uses none of yours: aws:kms does".into());
            }
            Some("AES256") => Some(Encryption::S3),
            Some(kms) => Some(Encryption::Kms { key, two_layers: kms == "aws:kms:dsse" }),
        })
    }
}

/// `blobs/=STANDARD_IA,indexes/=INTELLIGENT_TIERING`; a class alone is for all.
fn storage_classes(value: &str) -> Result<StorageClasses, String> {
    let mut classes = StorageClasses::default();
    for rule in value.split(',').map(str::trim).filter(|rule| !rule.is_empty()) {
        let (prefix, class) = rule.split_once('=').unwrap_or(("", rule));
        classes.set(prefix.trim_start_matches('/'), class).map_err(|e| format!("S3_STORAGE_CLASS={value:?}: {e}"))?;
    }
    Ok(classes)
}
