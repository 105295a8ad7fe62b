//! Gravity's pipeline: from the OpenTelemetry batches that a collector wrote to deduplicated, content-addressed
//! storage, and back, byte for byte.
//!
//! # The way in
//! One raw file is one stream. [`pipeline::Pipeline::run`] composes the stages, one module each, in this order:
//!
//! 1. [`decompress`]: gzip, zstd or plain, told by the first bytes;
//! 2. [`otlp`] (`parse`): OTLP JSON or protobuf, cut into records, their content picked by [`keys`];
//! 3. [`split`]: parts into chunks at the separator;
//! 4. [`hash`]: BLAKE3 names them;
//! 5. [`compress`]: gzip, called by the next stage for what is new;
//! 6. [`upload`]: into the store, each chunk once;
//! 7. [`index`]: the sink. It gathers spans by trace in a [`spool`] and commits when the whole batch is in.
//!
//! Between the stages travel [`block`]s, and [`stages`] has the two ways of running one concurrently.
//!
//! # The way out
//! [`reconstruct`]: a trace's index, its chunks fetched ahead in order, each checked against its name, joined.
//!
//! # Around them
//! [`worker`] runs batches as [`intake`] finds them, or as [`queue`] is told of them; [`ledger`] and [`quarantine`] say what became of them;
//! [`inspect`] counts, [`verify`] proves. [`loose`] is the layout: names and formats of objects. [`store`] is where objects are;
//! [`retry`] is how often a store is asked again; [`observe`] is who is told of all that.
//!
//! What must never break is in `ARCHITECTURE.md`, "Invariants".

mod aws;
pub mod block;
pub mod compress;
pub mod decompress;
pub mod error;
pub mod hash;
pub mod ids;
pub mod index;
pub mod inspect;
pub mod intake;
pub mod json_text;
pub mod keys;
mod lanes;
pub mod ledger;
pub mod loose;
pub mod observe;
pub mod otlp;
pub mod packed;
pub mod pipeline;
pub mod quarantine;
pub mod queue;
pub mod reconstruct;
pub mod retry;
pub mod split;
pub mod spool;
pub mod stages;
pub mod store;
pub mod upload;
pub mod verify;
pub mod worker;

pub use blake3;
pub use error::{Error, InputError, Result, Stage};
