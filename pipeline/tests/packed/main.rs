//! The packed layout gives back what it was given, byte for byte, whatever that was.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod archive;
mod format;
mod lift;
mod nodes;
mod requests;
mod shape;
