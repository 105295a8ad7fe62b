//! How stages are joined: spawned work with a bound, so that each stage can have a core and none can run ahead.

use crate::error::{Error, Result};
use futures::future::Either;
use futures::{FutureExt, Stream, StreamExt, TryStreamExt, future, stream};
use std::pin::Pin;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;

/// Applies `work` to every item, at most `limit` at a time, each as a task of its own; results come as they are
/// ready. An item is taken from `input` only when there is room to work on it. Dropping the stream stops the tasks.
pub fn concurrent<T, U, S, F, W>(input: S, limit: usize, work: W) -> impl Stream<Item = Result<U>> + Send
where
    S: Stream<Item = Result<T>> + Send,
    W: Fn(T) -> F + Send,
    F: Future<Output = Result<U>> + Send + 'static,
    T: Send,
    U: Send + 'static,
{
    let tasks = input.map_ok(move |item| {
        let task = AbortOnDropHandle::new(tokio::spawn(work(item)));
        async move { task.await.map_err(Error::Task).and_then(|result| result) }
    });
    tasks.try_buffer_unordered(limit.max(1))
}

/// Lets `input` run as a task of its own, `ahead` items ahead of its reader. Dropping the stream stops the task.
pub fn ahead<T, S>(input: S, ahead: usize) -> impl Stream<Item = Result<T>> + Send + 'static
where
    S: Stream<Item = Result<T>> + Send + 'static,
    T: Send + 'static,
{
    let (sender, receiver) = mpsc::channel(ahead.max(1));
    let pump = AbortOnDropHandle::new(tokio::spawn(async move {
        let mut input: Pin<Box<dyn Stream<Item = Result<T>> + Send>> = Box::pin(input);
        while let Some(item) = input.next().await {
            let failed = item.is_err();
            if sender.send(item).await.is_err() || failed {
                return;
            }
        }
    }));
    // The end of the pump is looked at, so that a panic in it is an error and never a short stream that looks whole.
    let panic = stream::once(pump).filter_map(|joined| future::ready(joined.err().map(|e| Err(Error::Task(e)))));
    ReceiverStream::new(receiver).chain(panic)
}

/// Does work of a few milliseconds on the thread that asks for it: to change threads twice takes part of that, and where
/// all cores are busy, more.
pub fn in_place<T>(work: impl FnOnce() -> T) -> T {
    match Handle::current().runtime_flavor() {
        RuntimeFlavor::CurrentThread => work(),
        _ => tokio::task::block_in_place(work),
    }
}

/// Begins work that takes long, apart from the threads that drive requests. A runtime of one thread, which has no other,
/// does it before this returns: there, as in a simulation, everything comes in the same order every time.
pub fn blocking<T, F>(work: F) -> impl Future<Output = Result<T>> + Send
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    match Handle::current().runtime_flavor() {
        RuntimeFlavor::CurrentThread => Either::Left(future::ready(Ok(work()))),
        _ => Either::Right(tokio::task::spawn_blocking(work).map(|joined| joined.map_err(Error::Task))),
    }
}
