//! S3 and what speaks its protocol.

use super::{ETag, Error, ErrorKind, Key, Meta, Object, PutMode, Result, Store};
use crate::{aws, retry};
use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::Region;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use std::time::SystemTime;
use tokio_util::io::ReaderStream;

const READ_BUFFER: usize = 256 << 10;

/// Where the bucket is. Credentials come from the SDK's usual chain: environment, profile, web identity, container,
/// instance.
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
}

/// A bucket, or a part of one.
pub struct S3 {
    client: Client,
    bucket: String,
    /// Empty, or ending in `/`.
    prefix: String,
}

impl S3 {
    /// A client for that bucket. Nothing is sent yet.
    pub async fn open(settings: S3Settings) -> Self {
        let shared = aws::config(settings.region, settings.endpoint.as_deref()).await;
        let mut config = aws_sdk_s3::config::Builder::from(&shared);
        if settings.endpoint.is_some() || shared.endpoint_url().is_some() {
            config = config.force_path_style(true);
            if shared.region().is_none() {
                config = config.region(Region::new("us-east-1"));
            }
        }
        let prefix = if settings.prefix.is_empty() { String::new() } else { settings.prefix + "/" };
        Self { client: Client::from_conf(config.build()), bucket: settings.bucket, prefix }
    }

    fn name(&self, key: &Key) -> String {
        format!("{}{key}", self.prefix)
    }

    fn error<E>(&self, operation: &'static str, target: &str, error: SdkError<E>) -> Error
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        let (kind, message) = aws::explain(&error);
        Error { kind, operation, target: format!("s3://{}/{target}", self.bucket), message }
    }
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
        let request = match mode {
            PutMode::Always => request,
            PutMode::IfAbsent => request.if_none_match("*"),
            PutMode::IfMatch(etag) => request.if_match(etag.0),
        };
        let answer = request.send().await.map_err(|e| self.error("put", &name, e))?;
        Ok(answer.e_tag.map(ETag))
    }

    async fn get(&self, key: &Key) -> Result<Option<Object>> {
        let name = self.name(key);
        let answer = match self.client.get_object().bucket(&self.bucket).key(&name).send().await {
            Ok(answer) => answer,
            Err(e) if e.as_service_error().is_some_and(|e| e.is_no_such_key()) => return Ok(None),
            Err(e) => return Err(self.error("get", &name, e)),
        };
        let meta = Meta {
            key: key.clone(),
            size: size(answer.content_length),
            modified: time(answer.last_modified.as_ref()),
            etag: answer.e_tag.map(ETag),
        };
        let target = format!("s3://{}/{name}", self.bucket);
        let body = ReaderStream::with_capacity(answer.body.into_async_read(), READ_BUFFER)
            .map_err(move |e| Error {
                kind: ErrorKind::Transient,
                operation: "get",
                target: target.clone(),
                message: format!("the answer broke off: {e}"),
            })
            .boxed();
        Ok(Some(Object { meta, body }))
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
        let body = answer.body.collect().await.map_err(|e| Error {
            kind: ErrorKind::Transient,
            operation: "get",
            target: format!("s3://{}/{name}", self.bucket),
            message: format!("the answer broke off: {e}"),
        })?;
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
            store: Self { client: self.client.clone(), bucket: self.bucket.clone(), prefix: self.prefix.clone() },
            listed: format!("{}{prefix}", self.prefix),
            start_after: start_after.map(|after| format!("{}{after}", self.prefix)),
        };
        // `None` as the state: the last page was read.
        stream::try_unfold((pages, Some(None)), |(pages, at)| async move {
            let Some(token) = at else { return Ok(None) };
            let transient = |e: &Error| e.kind == ErrorKind::Transient;
            let (page, next) = retry::retry(&retry::Policy::default(), transient, || pages.page(&token)).await?;
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
