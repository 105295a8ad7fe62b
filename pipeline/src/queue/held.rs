//! Which messages are in hand, and when each may go: deleted once every batch it names is settled, given back if one
//! of them has to be tried again. Nothing here talks to a queue, and nothing depends on the order of things.

use crate::store::Key;
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

/// What became of a batch, as far as its messages are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// It is committed, in quarantine, or gone: nobody needs to be told of it again.
    Done,
    /// Somebody should try it again, not before this pause is over.
    Again(Duration),
}

/// What to do with a message that has been settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It has done its work.
    Delete(Receipt),
    /// It becomes visible to all workers again after this pause.
    Release(Receipt, Duration),
}

/// What the queue wants to see when a message is deleted, kept or released: the handle of its last receipt.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Receipt(pub String);

/// The messages in hand.
#[derive(Debug, Default)]
pub struct Held {
    messages: HashMap<String, Message>,
    /// Which messages name a batch.
    waiting: HashMap<Key, Vec<String>>,
}

#[derive(Debug)]
struct Message {
    receipt: Receipt,
    open: usize,
    pause: Option<Duration>,
}

impl Held {
    /// Takes a message that names these batches into hand. What is returned is to be processed; it is nothing if the
    /// message is in hand already and only came again, which gives it a new receipt.
    pub fn take(&mut self, id: &str, receipt: Receipt, batches: BTreeSet<Key>) -> BTreeSet<Key> {
        if let Some(known) = self.messages.get_mut(id) {
            known.receipt = receipt;
            return BTreeSet::new();
        }
        if !batches.is_empty() {
            for batch in &batches {
                self.waiting.entry(batch.clone()).or_default().push(id.to_owned());
            }
            self.messages.insert(id.to_owned(), Message { receipt, open: batches.len(), pause: None });
        }
        batches
    }

    /// True for a message that is in hand.
    pub fn has(&self, id: &str) -> bool {
        self.messages.contains_key(id)
    }

    /// A batch is settled: which messages may go, and where.
    pub fn settle(&mut self, batch: &Key, how: Settled) -> Vec<Verdict> {
        let mut verdicts = Vec::new();
        for id in self.waiting.remove(batch).unwrap_or_default() {
            let Some(message) = self.messages.get_mut(&id) else { continue };
            message.open -= 1;
            if let Settled::Again(pause) = how {
                message.pause = message.pause.max(Some(pause));
            }
            if message.open == 0
                && let Some(Message { receipt, pause, .. }) = self.messages.remove(&id)
            {
                verdicts.push(match pause {
                    None => Verdict::Delete(receipt),
                    Some(pause) => Verdict::Release(receipt, pause),
                });
            }
        }
        verdicts
    }

    /// The messages in hand, whose receipts have to be kept from running out.
    pub fn receipts(&self) -> Vec<Receipt> {
        self.messages.values().map(|message| message.receipt.clone()).collect()
    }

    /// Lets go of everything: what was not settled is for others.
    pub fn give_up(&mut self) -> Vec<Receipt> {
        self.waiting.clear();
        self.messages.drain().map(|(_, message)| message.receipt).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(n: usize) -> Key {
        Key::new(format!("raw-spans/{n}")).unwrap()
    }

    fn receipt(n: usize) -> Receipt {
        Receipt(format!("receipt of {n}"))
    }

    fn keys(numbers: &[usize]) -> BTreeSet<Key> {
        numbers.iter().map(|&n| key(n)).collect()
    }

    #[test]
    fn a_message_goes_when_the_last_of_its_batches_is_done() {
        let mut held = Held::default();
        assert_eq!(held.take("m", receipt(1), keys(&[1, 2])), keys(&[1, 2]));
        assert_eq!(held.settle(&key(2), Settled::Done), []);
        assert_eq!(held.settle(&key(3), Settled::Done), []);
        assert_eq!(held.settle(&key(1), Settled::Done), [Verdict::Delete(receipt(1))]);
        assert_eq!(held.settle(&key(1), Settled::Done), []);
        assert_eq!(held.receipts(), []);
    }

    #[test]
    fn one_batch_to_try_again_brings_the_message_back_after_the_longest_pause() {
        let mut held = Held::default();
        held.take("m", receipt(1), keys(&[1, 2, 3]));
        let seconds = Duration::from_secs;
        assert_eq!(held.settle(&key(1), Settled::Again(seconds(9))), []);
        assert_eq!(held.settle(&key(2), Settled::Again(seconds(5))), []);
        assert_eq!(held.settle(&key(3), Settled::Done), [Verdict::Release(receipt(1), seconds(9))]);
    }

    #[test]
    fn a_message_that_comes_again_while_in_hand_only_has_a_new_receipt() {
        let mut held = Held::default();
        held.take("m", receipt(1), keys(&[1]));
        assert_eq!(held.take("m", receipt(2), keys(&[1])), keys(&[]));
        assert_eq!(held.receipts(), [receipt(2)]);
        assert_eq!(held.settle(&key(1), Settled::Done), [Verdict::Delete(receipt(2))]);
    }

    #[test]
    fn two_messages_for_one_batch_go_together() {
        let mut held = Held::default();
        held.take("a", receipt(1), keys(&[1]));
        held.take("b", receipt(2), keys(&[1, 2]));
        assert_eq!(held.settle(&key(1), Settled::Done), [Verdict::Delete(receipt(1))]);
        assert_eq!(held.give_up(), [receipt(2)]);
        assert_eq!(held.settle(&key(2), Settled::Done), []);
    }

    proptest! {
        /// Whatever names what and whatever the order: each message goes exactly once, not before its last batch is
        /// settled, and is deleted only if all of them were done.
        #[test]
        fn a_message_is_deleted_exactly_when_all_its_batches_were_done(
            messages in prop::collection::vec(prop::collection::btree_set(0..12usize, 1..5), 1..12),
            outcomes in prop::collection::vec(any::<bool>(), 12),
            order in Just((0..12).collect::<Vec<usize>>()).prop_shuffle(),
        ) {
            let mut held = Held::default();
            for (n, batches) in messages.iter().enumerate() {
                let batches: BTreeSet<_> = batches.iter().map(|&n| key(n)).collect();
                prop_assert_eq!(held.take(&n.to_string(), receipt(n), batches.clone()), batches);
            }
            let mut settled = BTreeSet::new();
            let mut gone = BTreeSet::new();
            for batch in order {
                settled.insert(batch);
                let how = if outcomes[batch] { Settled::Done } else { Settled::Again(Duration::from_secs(1)) };
                for verdict in held.settle(&key(batch), how) {
                    let (Verdict::Delete(of) | Verdict::Release(of, _)) = &verdict;
                    let n = (0..messages.len()).find(|&n| receipt(n) == *of).unwrap();
                    prop_assert!(messages[n].is_subset(&settled), "too early");
                    prop_assert!(gone.insert(n), "twice");
                    let all_done = messages[n].iter().all(|&batch| outcomes[batch]);
                    prop_assert_eq!(matches!(verdict, Verdict::Delete(_)), all_done);
                }
            }
            prop_assert_eq!(gone.len(), messages.len());
            prop_assert!(held.receipts().is_empty());
        }
    }
}
