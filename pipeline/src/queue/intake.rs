//! Between a queue and the worker: takes messages into hand, says which batches they name, keeps them while the
//! batches are in work, and lets them go as the batches settle.

use super::event::{self, Event, Watched};
use super::held::{Held, Settled, Verdict};
use super::sqs::{MOST, Received, Sqs};
use crate::error::Result;
use crate::ledger::Done;
use crate::loose::QuarantinedMessage;
use crate::observe::Observer;
use crate::quarantine;
use crate::store::{Key, Store};
use futures::{Stream, StreamExt, TryStreamExt, future, stream};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What to make of messages.
#[derive(Debug, Clone)]
pub struct IntakeSettings {
    /// Which objects are batches.
    pub watched: Watched,
    /// A message that was received more often goes to quarantine.
    pub max_receives: u32,
    /// Messages taken at a time, 10 at most: what one worker takes, no other can.
    pub messages: usize,
    /// How often to tell the queue that the messages in hand are still in work; less than their visibility.
    pub keep_every: Duration,
}

/// Messages of one queue, for one worker.
pub struct QueueIntake {
    queue: Sqs,
    store: Arc<dyn Store>,
    done: Done,
    settings: IntakeSettings,
    observer: Arc<dyn Observer>,
    held: Mutex<Held>,
    /// Whoever changes visibilities has this, so that no message is kept after it was given back.
    changing: tokio::sync::Mutex<()>,
    tasks: TaskTracker,
    over: CancellationToken,
    /// Some message told of an object that is no batch.
    strangers: AtomicBool,
}

/// The pauses after requests for messages that failed.
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(60)];
/// How long giving back may take: whoever asked us to end will not wait for ever.
const RELEASE: Duration = Duration::from_secs(5);

impl QueueIntake {
    /// Nothing is received yet. `done` tells which batches of `store` are.
    pub fn new(
        queue: Sqs,
        store: Arc<dyn Store>,
        done: Done,
        settings: IntakeSettings,
        observer: Arc<dyn Observer>,
    ) -> Arc<Self> {
        Arc::new(Self {
            queue,
            store,
            done,
            settings,
            observer,
            held: Mutex::default(),
            changing: tokio::sync::Mutex::default(),
            tasks: TaskTracker::new(),
            over: CancellationToken::new(),
            strangers: AtomicBool::new(false),
        })
    }

    /// The queue.
    pub fn queue(&self) -> &Sqs {
        &self.queue
    }

    /// The batches that messages name, as they come, until `stop`. Each of them has to be [settled](Self::settle).
    pub(crate) fn batches(self: &Arc<Self>, stop: CancellationToken) -> impl Stream<Item = Key> + Send + use<> {
        // One batch waits here, and with it its message: what we cannot begin with is better received by others.
        let (sender, receiver) = mpsc::channel(1);
        self.tasks.spawn(self.clone().receive(sender, stop));
        self.tasks.spawn(self.clone().keep());
        self.tasks.close();
        stream::unfold(receiver, |mut receiver| async move { Some((receiver.recv().await?, receiver)) })
    }

    /// Requests messages whenever the worker has room, and hands on what they name.
    async fn receive(self: Arc<Self>, batches: mpsc::Sender<Key>, stop: CancellationToken) {
        let mut pause = PAUSES[0];
        loop {
            let room = async {
                // The permit is given back at once: nobody else sends.
                batches.reserve().await.is_ok()
            };
            if !stop.run_until_cancelled(room).await.unwrap_or(false) {
                return;
            }
            let Some(received) = stop.run_until_cancelled(self.queue.receive(self.settings.messages)).await else {
                return;
            };
            match received {
                Ok(messages) => {
                    pause = PAUSES[0];
                    self.hand_on(messages, &batches, &stop).await;
                }
                Err(error) => {
                    tracing::error!(%error, ?pause, "no messages could be received; trying again");
                    self.observer.intake_failed();
                    stop.run_until_cancelled(tokio::time::sleep(pause)).await;
                    pause = PAUSES[1].min(pause * 2);
                }
            }
        }
    }

    async fn hand_on(&self, messages: Vec<Received>, batches: &mpsc::Sender<Key>, stop: &CancellationToken) {
        // All are in hand, and so kept, before the first batch is waited for.
        let named = stream::iter(messages).map(|message| self.take(message)).buffer_unordered(MOST);
        let named: Vec<_> = named.collect().await;
        for batch in named.into_iter().flatten() {
            let sent = stop.run_until_cancelled(batches.send(batch.clone())).await;
            if !matches!(sent, Some(Ok(()))) {
                self.settle(&batch, Settled::Again(Duration::ZERO)).await;
            }
        }
    }

    /// Takes a message into hand, or settles it at once if it names no batch. Gives the batches it names.
    async fn take(&self, message: Received) -> BTreeSet<Key> {
        let batches = match self.batches_of(&message) {
            Ok(batches) => batches,
            Err(reason) => {
                self.quarantine(&message, reason).await;
                return BTreeSet::new();
            }
        };
        if batches.is_empty() {
            self.carry_out(Verdict::Delete(message.receipt)).await;
            return BTreeSet::new();
        }
        if message.receives > self.settings.max_receives && !self.held().has(&message.id) {
            self.give_up_on(&message, &batches).await;
            return BTreeSet::new();
        }
        self.held().take(&message.id, message.receipt, batches)
    }

    fn batches_of(&self, message: &Received) -> Result<BTreeSet<Key>, String> {
        let watched = &self.settings.watched;
        let mut batches = BTreeSet::new();
        for event in event::parse(&message.body)? {
            match event {
                Event::Created { bucket, key } => match watched.batch(&bucket, &key) {
                    Some(name) => {
                        batches.insert(Key::listed(name));
                    }
                    None => self.tell_of_stranger(&bucket, &key),
                },
                Event::Other { name, object } => tracing::info!(event = %name, %object, "acknowledged: nothing to do"),
            }
        }
        Ok(batches)
    }

    /// Each such message is paid for, and where the filter is missing there is one for every blob.
    fn tell_of_stranger(&self, bucket: &str, key: &str) {
        let watched = &self.settings.watched;
        let advice = format!("events should be of {} alone, with a filter on {}", watched.bucket, watched.folder());
        match self.strangers.swap(true, Ordering::Relaxed) {
            false => tracing::warn!(bucket, key, "acknowledged, but not a batch of this store: {advice}"),
            true => tracing::info!(bucket, key, "acknowledged: not a batch of this store"),
        }
    }

    /// A message that comes again and again: what it names is done, or it is poison.
    async fn give_up_on(&self, message: &Received, batches: &BTreeSet<Key>) {
        if self.are_done(batches).await.unwrap_or(false) {
            self.carry_out(Verdict::Delete(message.receipt.clone())).await;
            return;
        }
        let most = self.settings.max_receives;
        let reason = format!("received more than {most} times (SQS_MAX_RECEIVES), and its batches are still not done");
        self.quarantine(message, reason).await;
    }

    /// Takes messages out of quarantine whose batches are done by now: what had refused them for so long was the store.
    pub(crate) async fn reconsider(&self) {
        if let Err(error) = self.try_reconsider().await {
            tracing::warn!(%error, "messages in quarantine could not be looked at again");
        }
    }

    async fn try_reconsider(&self) -> Result<()> {
        let mut messages = std::pin::pin!(quarantine::messages(&*self.store));
        while let Some(QuarantinedMessage { message, body, .. }) = messages.try_next().await? {
            let batches = self.named_in(&body);
            if !batches.is_empty() && self.are_done(&batches).await? {
                quarantine::remove_message(&*self.store, &message).await?;
                tracing::info!(id = message, "out of quarantine: all batches of the message are done");
            }
        }
        Ok(())
    }

    /// The batches of a message that was looked at before; none if it cannot be read.
    fn named_in(&self, body: &str) -> BTreeSet<Key> {
        let named = event::parse(body).unwrap_or_default().into_iter().filter_map(|event| match event {
            Event::Created { bucket, key } => self.settings.watched.batch(&bucket, &key).map(Key::listed),
            Event::Other { .. } => None,
        });
        named.collect()
    }

    async fn are_done(&self, batches: &BTreeSet<Key>) -> Result<bool> {
        self.done.refresh().await?;
        let done = future::try_join_all(batches.iter().map(|batch| self.done.has(batch.as_str()))).await?;
        Ok(done.into_iter().all(|done| done))
    }

    /// Puts a message into quarantine and deletes it; if that fails it comes again.
    async fn quarantine(&self, message: &Received, reason: String) {
        tracing::error!(id = %message.id, receives = message.receives, %reason, "message quarantined");
        let entry = QuarantinedMessage {
            message: message.id.clone(),
            queue: self.queue.url().to_owned(),
            reason,
            receives: message.receives,
            sent: message.sent.map(|time| humantime::format_rfc3339_millis(time).to_string()),
            body: message.body.clone(),
            gravity: env!("CARGO_PKG_VERSION").into(),
        };
        match quarantine::put_message(&*self.store, &entry).await {
            Ok(()) => {
                self.observer.message_quarantined();
                self.carry_out(Verdict::Delete(message.receipt.clone())).await;
            }
            Err(error) => tracing::error!(id = %message.id, %error, "not quarantined; it will be received again"),
        }
    }

    /// A batch is settled. Messages of which it was the last one go.
    pub(crate) async fn settle(&self, batch: &Key, how: Settled) {
        let verdicts = self.held().settle(batch, how);
        future::join_all(verdicts.into_iter().map(|verdict| self.carry_out(verdict))).await;
    }

    async fn carry_out(&self, verdict: Verdict) {
        let done = match &verdict {
            Verdict::Delete(receipt) => self.queue.delete(receipt).await,
            Verdict::Release(receipt, pause) => {
                let _changing = self.changing.lock().await;
                self.queue.release(receipt, *pause).await
            }
        };
        if let Err(error) = done {
            tracing::warn!(%error, "the message will be received again, which costs a look at the ledger");
        }
    }

    /// Tells the queue again and again that the messages in hand are in work.
    async fn keep(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(self.settings.keep_every);
        while self.over.run_until_cancelled(ticks.tick()).await.is_some() {
            let _changing = self.changing.lock().await;
            let receipts = self.held().receipts();
            if let Err(error) = self.queue.keep(&receipts).await {
                tracing::warn!(%error, "messages in work may be received by others too");
            }
        }
    }

    /// Lets go of all that is in hand: others may have it at once.
    pub(crate) async fn release(&self) {
        self.over.cancel();
        let released = tokio::time::timeout(RELEASE, async {
            self.tasks.wait().await;
            let receipts = self.held().give_up();
            self.queue.release_all(&receipts).await
        });
        match released.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "others receive these messages when their visibility ends"),
            Err(_) => {
                tracing::warn!("the queue does not answer: others receive our messages when their visibility ends")
            }
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        // The tables are whole between any two statements that could panic.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for QueueIntake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QueueIntake").field("queue", &self.queue.url()).field("settings", &self.settings).finish()
    }
}
