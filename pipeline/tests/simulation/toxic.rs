//! A worker's way to the store, on which anything may happen to a request, and on which the worker may die.

use crate::world::World;
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt, TryStreamExt, future};
use gravity_pipeline::store::{ETag, Error, ErrorKind, Key, Meta, Object, PutMode, Result, Store};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// A worker's life. It ends before or after some request.
pub struct Life {
    moments: AtomicU64,
    end: CancellationToken,
}

impl Life {
    pub fn new(moments: u64) -> Self {
        Self { moments: AtomicU64::new(moments), end: CancellationToken::new() }
    }

    pub async fn ended(&self) {
        self.end.cancelled().await;
    }

    /// A moment at which it may end; then nothing comes after it.
    async fn moment(&self) {
        let left = self.moments.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| Some(left.saturating_sub(1)));
        if left.is_ok_and(|left| left <= 1) {
            self.end.cancel();
            future::pending::<()>().await;
        }
    }
}

pub struct Toxic {
    pub world: Arc<World>,
    pub life: Arc<Life>,
}

fn failed(operation: &'static str, key: &str) -> Error {
    Error { kind: ErrorKind::Transient, operation, target: key.to_owned(), message: "simulated".into() }
}

impl Toxic {
    async fn delay(&self) {
        let delay = self.world.roll(self.world.weather.delay);
        tokio::time::sleep(Duration::from_millis(delay)).await;
    }

    /// Sends a request. Once it is sent the store does it, whatever becomes of the sender.
    async fn send<T, F>(&self, operation: &'static str, key: &str, effect: F) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        self.life.moment().await;
        self.delay().await;
        let weather = self.world.weather;
        if self.world.fails() {
            self.world.write_down(operation, key, "failed");
            return Err(failed(operation, key));
        }
        let is_lost = self.world.roll(1000) < weather.lose;
        // A request that is given up may arrive long after the next one.
        let late = if is_lost { self.world.roll(30_000) } else { self.world.roll(weather.delay) };
        let done = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(late)).await;
            effect.await
        });
        if is_lost {
            self.world.note(|came| came.unanswered += 1);
            self.world.write_down(operation, key, "unanswered");
            self.delay().await;
            return Err(failed(operation, key));
        }
        let done = done.await.unwrap();
        self.world.write_down(operation, key, if done.is_ok() { "ok" } else { "refused" });
        self.life.moment().await;
        self.delay().await;
        done
    }

    /// An object whose body comes in pieces, and may break off.
    fn in_pieces(&self, object: Object) -> Object {
        /// A body is cut at fifteen places at most.
        const PIECE: usize = 200;
        let Object { meta, body, crc32 } = object;
        let (world, life) = (self.world.clone(), self.life.clone());
        let key = meta.key.to_string();
        let pieces = body
            .map_ok(|whole| {
                let piece = PIECE.max(whole.len() / 16);
                let starts = (0..whole.len()).step_by(piece);
                let pieces: Vec<_> = starts.map(|at| Ok(whole.slice(at..whole.len().min(at + piece)))).collect();
                stream::iter(pieces)
            })
            .try_flatten()
            .and_then(move |piece| {
                let (world, life, key) = (world.clone(), life.clone(), key.clone());
                async move {
                    life.moment().await;
                    if world.roll(1000) < world.weather.cut {
                        world.note(|came| came.cut += 1);
                        world.write_down("get", &key, "cut");
                        return Err(failed("get", &key));
                    }
                    Ok(piece)
                }
            });
        Object { meta, body: pieces.boxed(), crc32 }
    }
}

#[async_trait]
impl Store for Toxic {
    fn location(&self) -> String {
        "toxic:".into()
    }

    async fn put(&self, key: &Key, body: Bytes, mode: PutMode) -> Result<Option<ETag>> {
        let (world, at) = (self.world.clone(), key.clone());
        self.send("put", key.as_str(), async move { world.put(&at, body, mode).await }).await
    }

    async fn get(&self, key: &Key) -> Result<Option<Object>> {
        let (store, at) = (self.world.store.clone(), key.clone());
        let object = self.send("get", key.as_str(), async move { store.get(&at).await }).await?;
        Ok(object.map(|object| self.in_pieces(object)))
    }

    async fn get_from(&self, object: &Meta, from: u64) -> Result<Object> {
        let (store, of) = (self.world.store.clone(), object.clone());
        let rest = self.send("get", object.key.as_str(), async move { store.get_from(&of, from).await }).await?;
        Ok(self.in_pieces(rest))
    }

    async fn get_range(&self, key: &Key, range: std::ops::Range<u64>) -> Result<Option<Bytes>> {
        let (store, at) = (self.world.store.clone(), key.clone());
        self.send("get", key.as_str(), async move { store.get_range(&at, range).await }).await
    }

    async fn head(&self, key: &Key) -> Result<Option<Meta>> {
        let (store, at) = (self.world.store.clone(), key.clone());
        self.send("head", key.as_str(), async move { store.head(&at).await }).await
    }

    fn list(&self, prefix: &str, start_after: Option<&str>) -> BoxStream<'static, Result<Meta>> {
        let this = Self { world: self.world.clone(), life: self.life.clone() };
        let (prefix, after) = (prefix.to_owned(), start_after.map(str::to_owned));
        async move {
            let (store, of) = (this.world.store.clone(), prefix.clone());
            let page = async move { Ok(store.list(&of, after.as_deref()).collect::<Vec<_>>().await) };
            let lag = Duration::from_millis(this.world.roll(this.world.weather.lag + 1));
            let listed = match this.send("list", &prefix, page).await {
                Ok(page) => page,
                Err(e) => vec![Err(e)],
            };
            let seen = move |listed: &Result<Meta>| match listed {
                Ok(meta) => this.world.was_there(meta.key.as_str(), lag),
                Err(_) => true,
            };
            stream::iter(listed.into_iter().filter(seen).collect::<Vec<_>>())
        }
        .flatten_stream()
        .boxed()
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        let (world, at) = (self.world.clone(), key.clone());
        self.send("delete", key.as_str(), async move { world.delete(&at).await }).await
    }
}
