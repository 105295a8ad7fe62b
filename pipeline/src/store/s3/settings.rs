//! Which bucket, and how its objects are kept.

use crate::{aws, retry};
use aws_sdk_s3::types::{ServerSideEncryption, StorageClass};
use std::time::Duration;

/// Where the bucket is and how it is used. Credentials come from the SDK's usual chain: environment, profile, web
/// identity, container, instance.
#[derive(Debug, Clone)]
pub struct S3Settings {
    /// The bucket's name. Gravity does not create it.
    pub bucket: String,
    /// What stands before every key, without a `/` at either end; may be empty.
    pub prefix: String,
    /// The bucket's region; otherwise `AWS_REGION` or the profile's.
    pub region: Option<String>,
    /// Another server than AWS, addressed by path (`http://127.0.0.1:8333`).
    pub endpoint: Option<String>,
    /// How the server encrypts what is written; otherwise as the bucket says.
    pub encryption: Option<Encryption>,
    /// How what is written is kept.
    pub storage: StorageClasses,
    /// The longest wait for an answer, or for the next bytes of one.
    pub timeout: Duration,
    /// How long a page of a listing is tried for; every other request is retried by `Retrying`.
    pub retry: retry::Policy,
}

impl S3Settings {
    /// A bucket with all else as it is by default.
    pub fn new(bucket: impl Into<String>) -> Self {
        Self {
            bucket: bucket.into(),
            prefix: String::new(),
            region: None,
            endpoint: None,
            encryption: None,
            storage: StorageClasses::default(),
            timeout: Self::TIMEOUT,
            retry: retry::Policy::default(),
        }
    }

    /// The longest wait by default.
    pub const TIMEOUT: Duration = aws::TIMEOUT;
}

/// Server-side encryption.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Encryption {
    /// SSE-S3: with the server's own keys.
    S3,
    /// SSE-KMS: with this key, or the account's own for S3.
    Kms {
        /// Its id, ARN or alias.
        key: Option<String>,
        /// With two layers (DSSE-KMS).
        two_layers: bool,
    },
}

impl Encryption {
    pub(super) fn header(&self) -> ServerSideEncryption {
        match self {
            Self::S3 => ServerSideEncryption::Aes256,
            Self::Kms { two_layers: false, .. } => ServerSideEncryption::AwsKms,
            Self::Kms { two_layers: true, .. } => ServerSideEncryption::AwsKmsDsse,
        }
    }

    pub(super) fn key(&self) -> Option<&str> {
        match self {
            Self::S3 => None,
            Self::Kms { key, .. } => key.as_deref(),
        }
    }
}

/// Storage classes by what keys begin with; of several that fit, the longest one counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StorageClasses(Vec<(String, String)>);

impl StorageClasses {
    /// Adds a rule.
    ///
    /// # Errors
    /// If it is not the name of a class, or of one whose objects cannot be read without being restored.
    pub fn set(&mut self, prefix: &str, class: &str) -> Result<(), String> {
        if class.is_empty() || !class.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_') {
            return Err(format!("{class:?} is not a storage class such as STANDARD_IA"));
        }
        if matches!(class, "GLACIER" | "DEEP_ARCHIVE") {
            return Err(format!("objects in {class} cannot be read at once; GLACIER_IR can"));
        }
        self.0.retain(|(known, _)| known != prefix);
        self.0.push((prefix.to_owned(), class.to_owned()));
        Ok(())
    }

    pub(super) fn of(&self, key: &str) -> Option<StorageClass> {
        let fitting = self.0.iter().filter(|(prefix, _)| key.starts_with(prefix));
        fitting.max_by_key(|(prefix, _)| prefix.len()).map(|(_, class)| StorageClass::from(class.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_says_which_storage_class() {
        let mut classes = StorageClasses::default();
        assert_eq!(classes.of("blobs/a"), None);
        for (prefix, class) in [("", "STANDARD"), ("blobs/", "STANDARD_IA"), ("blobs/ff/", "ONEZONE_IA")] {
            classes.set(prefix, class).unwrap();
        }
        let found = ["indexes/a", "blobs/aa/x", "blobs/ff/x"].map(|key| classes.of(key).unwrap());
        assert_eq!(found, [StorageClass::Standard, StorageClass::StandardIa, StorageClass::OnezoneIa]);
    }

    #[test]
    fn a_class_that_cannot_be_read_at_once_is_refused() {
        let mut classes = StorageClasses::default();
        for class in ["GLACIER", "DEEP_ARCHIVE", "", "standard", "A=B"] {
            assert!(classes.set("blobs/", class).is_err(), "{class:?}");
        }
        classes.set("blobs/", "GLACIER_IR").unwrap();
    }
}
