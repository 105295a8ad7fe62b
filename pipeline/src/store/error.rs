//! Errors of a store: which operation on which key, what kind of failure, and what helps.

use super::Meta;
use std::fmt;

/// A store's results.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What kind of failure it was; callers act on this, people read the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The condition of a conditional put did not hold.
    Precondition,
    /// Credentials are missing or not allowed to do this.
    Denied,
    /// Credentials have expired; others may be issued meanwhile.
    Expired,
    /// The bucket, or the directory above the store, is not there.
    NoStore,
    /// The queue is not there.
    NoQueue,
    /// No room, or a quota is used up.
    Full,
    /// The store cannot be written.
    ReadOnly,
    /// The key is not one this store can hold.
    BadKey,
    /// The network, a time-out, throttling, a server's own failure: may succeed when tried again.
    Transient,
    /// Anything else.
    Other,
}

impl ErrorKind {
    /// Its name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            ErrorKind::Precondition => "precondition",
            ErrorKind::Denied => "denied",
            ErrorKind::Expired => "expired",
            ErrorKind::NoStore => "no_store",
            ErrorKind::NoQueue => "no_queue",
            ErrorKind::Full => "full",
            ErrorKind::ReadOnly => "read_only",
            ErrorKind::BadKey => "bad_key",
            ErrorKind::Transient => "transient",
            ErrorKind::Other => "other",
        }
    }

    fn advice(self) -> Option<&'static str> {
        Some(match self {
            ErrorKind::Denied => "check the credentials and that the policy or file mode allows it",
            ErrorKind::Expired => "the credentials have expired: see that others are issued",
            ErrorKind::NoStore => "check --store (S3_BUCKET); Gravity does not create buckets",
            ErrorKind::NoQueue => "check --queue (SQS_QUEUE_URL); Gravity does not create queues",
            ErrorKind::Full => "free some room and run it again: what was committed stays, the rest is redone",
            ErrorKind::ReadOnly => "the store must be writable",
            _ => return None,
        })
    }
}

/// A failed operation.
#[derive(Debug)]
pub struct Error {
    /// What kind of failure.
    pub kind: ErrorKind,
    /// The operation: `put`, `get`, `head`, `list`, `delete`, `open`; of a queue `receive`, `acknowledge`, `look at`.
    pub operation: &'static str,
    /// The object, or the prefix, with the store's location before it.
    pub target: String,
    /// What the server or the operating system said.
    pub message: String,
}

impl Error {
    /// True for what may succeed when it is tried again in a while.
    pub fn is_transient(&self) -> bool {
        matches!(self.kind, ErrorKind::Transient | ErrorKind::Expired)
    }

    /// An object of which no more can be had where reading it broke off.
    pub(crate) fn not_resumable(object: &Meta) -> Self {
        let message = "reading it broke off, and this store cannot go on from there".to_owned();
        Self { kind: ErrorKind::Other, operation: "get", target: object.key.to_string(), message }
    }

    /// An object that is another one by now. Reading it from the start may well succeed.
    pub(crate) fn replaced(object: &Meta) -> Self {
        let message = "it was replaced while it was being read".to_owned();
        Self { kind: ErrorKind::Other, operation: "get", target: object.key.to_string(), message }
    }

    /// An object whose bytes are not those that were written.
    pub(crate) fn damaged(object: &Meta, expected: u32, found: u32) -> Self {
        let message = format!("its CRC-32 is {found:08x}, the store says {expected:08x}");
        Self { kind: ErrorKind::Transient, operation: "get", target: object.key.to_string(), message }
    }

    pub(crate) fn io(operation: &'static str, target: impl fmt::Display, error: &std::io::Error) -> Self {
        use std::io::ErrorKind as Io;
        let kind = match error.kind() {
            Io::AlreadyExists => ErrorKind::Precondition,
            Io::PermissionDenied => ErrorKind::Denied,
            Io::StorageFull | Io::QuotaExceeded | Io::FileTooLarge => ErrorKind::Full,
            Io::ReadOnlyFilesystem => ErrorKind::ReadOnly,
            Io::InvalidFilename | Io::NotADirectory | Io::IsADirectory => ErrorKind::BadKey,
            // EMFILE and ENFILE have no kind of their own; they pass when other files are closed.
            _ if matches!(error.raw_os_error(), Some(23 | 24)) => ErrorKind::Transient,
            Io::Interrupted | Io::TimedOut | Io::WouldBlock => ErrorKind::Transient,
            _ => ErrorKind::Other,
        };
        Self { kind, operation, target: target.to_string(), message: error.to_string() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.operation, self.target, self.message)?;
        match self.kind.advice() {
            Some(advice) => write!(f, " ({advice})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {}
