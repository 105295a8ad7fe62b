//! x
#![allow(dead_code)]
pub mod block;
pub mod decompress;
pub mod error;
pub mod ids;
pub mod keys;
pub mod otlp;
pub mod retry;
pub mod stages;
pub mod store;
pub use error::{Error, InputError, Result, Stage};
