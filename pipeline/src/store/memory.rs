//! Objects in memory: what tests build on.

use super::{ETag, Error, ErrorKind, Key, Meta, Object, PutMode, Result, Store};
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

/// A store that is gone when the process is.
#[derive(Default)]
pub struct Memory {
    objects: Mutex<BTreeMap<String, (Bytes, SystemTime)>>,
}

impl Memory {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    fn objects(&self) -> MutexGuard<'_, BTreeMap<String, (Bytes, SystemTime)>> {
        // The map is whole between any two statements that could panic.
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn etag(body: &[u8]) -> ETag {
    ETag(blake3::hash(body).to_hex().to_string())
}

fn meta(key: &str, (body, modified): &(Bytes, SystemTime)) -> Meta {
    Meta { key: Key::listed(key), size: body.len() as u64, etag: Some(etag(body)), modified: Some(*modified) }
}

#[async_trait]
impl Store for Memory {
    fn location(&self) -> String {
        "memory:".into()
    }

    async fn put(&self, key: &Key, body: Bytes, mode: PutMode) -> Result<Option<ETag>> {
        let mut objects = self.objects();
        let there = objects.get(key.as_str()).map(|(body, _)| etag(body));
        let allowed = match &mode {
            PutMode::Always => true,
            PutMode::IfAbsent => there.is_none(),
            PutMode::IfMatch(expected) => there.as_ref() == Some(expected),
        };
        if !allowed {
            return Err(Error {
                kind: ErrorKind::Precondition,
                operation: "put",
                target: key.to_string(),
                message: "the condition does not hold".into(),
            });
        }
        let etag = etag(&body);
        objects.insert(key.as_str().to_owned(), (body, SystemTime::now()));
        Ok(Some(etag))
    }

    async fn get(&self, key: &Key) -> Result<Option<Object>> {
        Ok(self.objects().get(key.as_str()).map(|object| {
            let body = object.0.clone();
            Object { meta: meta(key.as_str(), object), body: stream::once(async { Ok(body) }).boxed(), crc32: None }
        }))
    }

    async fn get_from(&self, object: &Meta, from: u64) -> Result<Object> {
        match self.get(&object.key).await? {
            Some(found) if found.meta.etag == object.etag => {
                let body = found.bytes().await?.slice(from as usize..);
                Ok(Object { meta: object.clone(), body: stream::once(async { Ok(body) }).boxed(), crc32: None })
            }
            _ => Err(Error::replaced(object)),
        }
    }

    async fn get_range(&self, key: &Key, range: std::ops::Range<u64>) -> Result<Option<Bytes>> {
        Ok(self.objects().get(key.as_str()).map(|(body, _)| {
            let end = (range.end as usize).min(body.len());
            body.slice((range.start as usize).min(end)..end)
        }))
    }

    async fn head(&self, key: &Key) -> Result<Option<Meta>> {
        Ok(self.objects().get(key.as_str()).map(|object| meta(key.as_str(), object)))
    }

    fn list(&self, prefix: &str, start_after: Option<&str>) -> BoxStream<'static, Result<Meta>> {
        let from = match start_after {
            Some(after) if after >= prefix => Bound::Excluded(after.to_owned()),
            _ => Bound::Included(prefix.to_owned()),
        };
        let found: Vec<_> = self
            .objects()
            .range((from, Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix))
            .map(|(key, object)| Ok(meta(key, object)))
            .collect();
        stream::iter(found).boxed()
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        self.objects().remove(key.as_str());
        Ok(())
    }
}
