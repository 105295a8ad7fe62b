//! S3 and what speaks its protocol.

mod settings;

pub use settings::{Encryption, S3Settings, StorageClasses};

use super::{ETag, Error, ErrorKind, Key, Meta, Object, PutMode, Result, Store};
use crate::{aws, retry};
use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::Region;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::primitives::ByteStream;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use std::time::SystemTime;
use tokio_util::io::ReaderStream;

const READ_BUFFER: usize = 256 << 10;

/// A bucket, or a part of one.
#[derive(Clone)]
pub struct S3 {
    client: Client,
    bucket: String,
    /// Empty, or ending in `/`.
    prefix: String,
    encryption: Option<Encryption>,
    storage: StorageClasses,
    retry: retry::Policy,
}

impl S3 {
    /// A client for that bucket. Nothing is sent yet.
    pub async fn open(settings: S3Settings) -> Self {
        let shared = aws::config(settings.region, settings.endpoint.as_deref(), settings.timeout).await;
        let mut config = aws_sdk_s3::config::Builder::from(&shared);
        if settings.endpoint.is_some() || shared.endpoint_url().is_some() {
            config = config.force_path_style(true);
            if shared.region().is_none() {
                config = config.region(Region::new("us-east-1"));
            }
        }
        let prefix = if settings.prefix.is_empty() { String::new() } else { settings.prefix + "/" };
        Self {
            client: Client::from_conf(config.build()),
            bucket: settings.bucket,
            prefix,
            encryption: settings.encryption,
            storage: settings.storage,
            retry: settings.retry,
        }
    }

    fn name(&self, key: &Key) -> String {
        format!("{}{key}", self.prefix)
    }

    /// An object's address, for messages.
    fn address(&self, name: &str) -> String {
        format!("s3://{}/{name}", self.bucket)
    }

    fn error<E>(&self, operation: &'static str, name: &str, e: SdkError<E>) -> Error
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        let (kind, message) = aws::explain(&e);
        Error { kind, operation, target: self.address(name), message }
    }

    /// An answer to a GET, from its byte `from` on, as an object to be read.
    fn object(&self, key: &Key, answer: GetObjectOutput, from: u64) -> Object {
        let meta = Meta {
            key: key.clone(),
            size: from + size(answer.content_length),
            modified: time(answer.last_modified.as_ref()),
            etag: answer.e_tag.map(ETag),
        };
        let target = self.address(&self.name(key));
        let crc32 = answer.checksum_crc32.as_deref().filter(|_| from == 0).and_then(crc32);
        let body = ReaderStream::with_capacity(answer.body.into_async_read(), READ_BUFFER)
            .map_err(move |e| broke_off(target.clone(), &e))
            .boxed();
        Object { meta, body, crc32 }
    }
}

fn broke_off(target: String, e: &(dyn std::error::Error + 'static)) -> Error {
    let message = format!("the answer broke off: {}", aws::with_causes(e));
    Error { kind: ErrorKind::Transient, operation: "get", target, message }
}

/// The checksum of a whole object; one of an upload in parts has their number behind it, and is not.
fn crc32(header: &str) -> Option<u32> {
    let bytes = STANDARD.decode(header).ok()?;
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}

/// Whether an answer begins where it was asked to: some servers ignore the range and send all.
fn begins_at(answer: &GetObjectOutput, from: u64) -> bool {
    let range = answer.content_range.as_deref().and_then(|range| range.strip_prefix("bytes "));
    range.and_then(|range| range.split('-').next()).and_then(|start| start.parse().ok()) == Some(from)
}

fn time(time: Option<&aws_sdk_s3::primitives::DateTime>) -> Option<SystemTime> {
    time.and_then(|t| SystemTime::try_from(*t).ok())
}

fn size(length: Option<i64>) -> u64 {
    length.and_then(|n| u64::try_from(n).ok()).unwrap_or(0)
}

#[async_trait]
impl Store for S3 {
    fn location(&self) -> String {
        format!("s3://{}/{}", self.bucket, self.prefix.trim_end_matches('/'))
    }

    async fn put(&self, key: &Key, body: Bytes, mode: PutMode) -> Result<Option<ETag>> {
        let name = self.name(key);
        let request = self.client.put_object().bucket(&self.bucket).key(&name).body(ByteStream::from(body));
        let request = request
            .set_server_side_encryption(self.encryption.as_ref().map(Encryption::header))
            .set_ssekms_key_id(self.encryption.as_ref().and_then(Encryption::key).map(str::to_owned))
            .set_storage_class(self.storage.of(key.as_str()));
        let must_be_there = matches!(mode, PutMode::IfMatch(_));
        let request = match mode {
            PutMode::Always => request,
            PutMode::IfAbsent => request.if_none_match("*"),
            PutMode::IfMatch(etag) => request.if_match(etag.0),
        };
        // The body is in memory, so the SDK sends its CRC-32 as a header. As a trailer it would need `aws-chunked`,
        // which SeaweedFS leaves in the object's Content-Encoding.
        match request.send().await {
            Ok(answer) => Ok(answer.e_tag.map(ETag)),
            Err(e) => {
                let is_gone = must_be_there && e.raw_response().is_some_and(|r| r.status().as_u16() == 404);
                let error = self.error("put", &name, e);
                // S3 says that there is no such key where the version that was asked for has been deleted.
                let kind = if is_gone && error.kind == ErrorKind::Other { ErrorKind::Precondition } else { error.kind };
                Err(Error { kind, ..error })
            }
        }
    }

    async fn get(&self, key: &Key) -> Result<Option<Object>> {
        let name = self.name(key);
        let answer = match self.client.get_object().bucket(&self.bucket).key(&name).send().await {
            Ok(answer) => answer,
            Err(e) if e.as_service_error().is_some_and(|e| e.is_no_such_key()) => return Ok(None),
            Err(e) => return Err(self.error("get", &name, e)),
        };
        Ok(Some(self.object(key, answer, 0)))
    }

    async fn get_from(&self, object: &Meta, from: u64) -> Result<Object> {
        let name = self.name(&object.key);
        let Some(ETag(etag)) = &object.etag else { return Err(Error::not_resumable(object)) };
        let request = self.client.get_object().bucket(&self.bucket).key(&name);
        let answer = request.range(format!("bytes={from}-")).if_match(etag).send().await.map_err(|e| {
            let error = self.error("get", &name, e);
            match error.kind {
                ErrorKind::Precondition => Error::replaced(object),
                _ => error,
            }
        })?;
        match begins_at(&answer, from) {
            true => Ok(self.object(&object.key, answer, from)),
            false => Err(Error::not_resumable(object)),
        }
    }

    async fn get_range(&self, key: &Key, range: std::ops::Range<u64>) -> Result<Option<Bytes>> {
        if range.is_empty() {
            return Ok(self.head(key).await?.map(|_| Bytes::new()));
        }
        let name = self.name(key);
        let bytes = format!("bytes={}-{}", range.start, range.end - 1);
        let answer = match self.client.get_object().bucket(&self.bucket).key(&name).range(bytes).send().await {
            Ok(answer) => answer,
            Err(e) if e.as_service_error().is_some_and(|e| e.is_no_such_key()) => return Ok(None),
            // The range begins behind the end.
            Err(e) if e.raw_response().is_some_and(|r| r.status().as_u16() == 416) => return Ok(Some(Bytes::new())),
            Err(e) => return Err(self.error("get", &name, e)),
        };
        if !begins_at(&answer, range.start) {
            let message = "the server answers a range with something else".to_owned();
            return Err(Error { kind: ErrorKind::Other, operation: "get", target: self.address(&name), message });
        }
        let body = answer.body.collect().await.map_err(|e| broke_off(self.address(&name), &e))?;
        Ok(Some(body.into_bytes()))
    }

    async fn head(&self, key: &Key) -> Result<Option<Meta>> {
        let name = self.name(key);
        match self.client.head_object().bucket(&self.bucket).key(&name).send().await {
            Ok(answer) => Ok(Some(Meta {
                key: key.clone(),
                size: size(answer.content_length),
                modified: time(answer.last_modified.as_ref()),
                etag: answer.e_tag.map(ETag),
            })),
            Err(e) if e.as_service_error().is_some_and(|e| e.is_not_found()) => Ok(None),
            Err(e) => Err(self.error("head", &name, e)),
        }
    }

    fn list(&self, prefix: &str, start_after: Option<&str>) -> BoxStream<'static, Result<Meta>> {
        let pages = Pages {
            store: self.clone(),
            listed: format!("{}{prefix}", self.prefix),
            start_after: start_after.map(|after| format!("{}{after}", self.prefix)),
        };
        // `None` as the state: the last page was read.
        stream::try_unfold((pages, Some(None)), |(pages, at)| async move {
            let Some(token) = at else { return Ok(None) };
            let budget = retry::Budget::new(pages.store.retry);
            let (page, next) = budget.retry(Error::is_transient, || pages.page(&token)).await?;
            let next = (pages, next.map(Some));
            Ok(Some((stream::iter(page.into_iter().map(Ok)), next)))
        })
        .try_flatten()
        .boxed()
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        let name = self.name(key);
        let answer = self.client.delete_object().bucket(&self.bucket).key(&name).send().await;
        answer.map(|_| ()).map_err(|e| self.error("delete", &name, e))
    }
}

/// A listing in progress.
struct Pages {
    store: S3,
    listed: String,
    start_after: Option<String>,
}

impl Pages {
    /// One page, and the token of the next if there is one.
    async fn page(&self, token: &Option<String>) -> Result<(Vec<Meta>, Option<String>)> {
        let store = &self.store;
        let answer = store
            .client
            .list_objects_v2()
            .bucket(&store.bucket)
            .prefix(&self.listed)
            .set_start_after(self.start_after.clone())
            .set_continuation_token(token.clone())
            .send()
            .await
            .map_err(|e| store.error("list", &self.listed, e))?;
        let objects = answer.contents.unwrap_or_default();
        let page = objects.into_iter().filter_map(|object| {
            let name = object.key?;
            // A "folder" made by a console is an object whose name ends in `/`.
            let key = name.strip_prefix(&store.prefix).filter(|key| !key.ends_with('/'))?;
            Some(Meta {
                key: Key::listed(key),
                size: size(object.size),
                modified: time(object.last_modified.as_ref()),
                etag: object.e_tag.map(ETag),
            })
        });
        let next = answer.next_continuation_token.filter(|_| answer.is_truncated == Some(true));
        Ok((page.collect(), next))
    }
}
