//! Event-driven intake: S3 tells of new batches through a queue.
//!
//! [`event`] reads what a message says, [`held`] knows when a message may go, [`Sqs`] talks to the queue, and
//! [`QueueIntake`] puts them together for the worker.

pub mod event;
pub mod held;
mod intake;
mod sqs;

pub use intake::{IntakeSettings, QueueIntake};
pub use sqs::{Depth, QueueSettings, Received, Sqs};
