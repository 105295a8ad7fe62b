//! A store that keeps nothing: what the pipeline costs without one.

use super::{ETag, Key, Meta, Object, PutMode, Result, Store};
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};

/// Every write succeeds and every object is absent.
pub struct Discard;

#[async_trait]
impl Store for Discard {
    fn location(&self) -> String {
        "discard:".into()
    }

    async fn put(&self, _: &Key, _: Bytes, _: PutMode) -> Result<Option<ETag>> {
        Ok(None)
    }

    async fn get(&self, _: &Key) -> Result<Option<Object>> {
        Ok(None)
    }

    async fn get_range(&self, _: &Key, _: std::ops::Range<u64>) -> Result<Option<Bytes>> {
        Ok(None)
    }

    async fn head(&self, _: &Key) -> Result<Option<Meta>> {
        Ok(None)
    }

    fn list(&self, _: &str, _: Option<&str>) -> BoxStream<'static, Result<Meta>> {
        stream::empty().boxed()
    }

    async fn delete(&self, _: &Key) -> Result<()> {
        Ok(())
    }
}
