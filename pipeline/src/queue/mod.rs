//! Event-driven intake: S3 tells of new batches through a queue.
//!
//! [`event`] reads what a message says, [`held`] knows when a message may go, [`Sqs`] talks to the queue.

pub mod event;
pub mod held;
mod sqs;

pub use sqs::{Depth, QueueSettings, Received, Sqs};
