//! x
#![allow(dead_code)]
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
pub mod ledger;
pub mod loose;
pub mod otlp;
pub mod pipeline;
pub mod quarantine;
pub mod reconstruct;
pub mod retry;
pub mod split;
pub mod spool;
pub mod stages;
pub mod store;
pub mod upload;
pub mod worker;
pub use error::{Error, InputError, Result, Stage};
pub use blake3;
