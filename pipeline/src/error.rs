//! What can go wrong with a batch, told apart by whose fault it is: the input's, the store's, or this machine's.

use std::fmt;

/// Why a batch did not get into the store, or a trace did not come out of it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The batch itself is bad: another try with the same bytes ends the same, so a worker quarantines it.
    #[error(transparent)]
    Input(#[from] InputError),
    /// The store refused or failed; the batch is as good as before.
    #[error(transparent)]
    Store(#[from] crate::store::Error),
    /// What the store holds is not what Gravity wrote.
    #[error("{key}: {reason}")]
    Corrupt {
        /// The object's key.
        key: String,
        /// What was expected and what was found.
        reason: String,
    },
    /// An object of the store that was there before.
    #[error("{0}: gone while it was read; compacted meanwhile, try again")]
    Gone(String),
    /// A local file or stream could not be read or written.
    #[error("{what}: {source}")]
    Io {
        /// The file or stream.
        what: String,
        /// The operating system's word.
        source: std::io::Error,
    },
    /// A trace, span or part that the store does not hold.
    #[error("{0}")]
    NotFound(String),
    /// A limit of the configuration that this trace or batch does not fit in.
    #[error("{0}")]
    Limit(String),
    /// A setting that contradicts what the store says of itself.
    #[error("{0}")]
    Config(String),
    /// The flush that this batch was in failed; the batch is as good as before.
    #[error("{0}")]
    Flush(std::sync::Arc<Error>),
    /// Something that this batch shares with others could not be stored; the batch is as good as before.
    #[error("{0}")]
    Lost(String),
    /// A task of the pipeline panicked: a bug, told instead of hidden.
    #[error("a pipeline task failed: {0}")]
    Task(#[from] tokio::task::JoinError),
}

impl Error {
    /// True if the same bytes will fail again whatever the store does.
    pub fn is_permanent(&self) -> bool {
        matches!(self, Error::Input(_) | Error::Limit(_))
    }

    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Error {
        let what = what.into();
        move |source| Error::Io { what, source }
    }
}

/// The stage that found a batch bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// gzip or zstd.
    Decompress,
    /// OTLP JSON or protobuf.
    Parse,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stage::Decompress => "decompress",
            Stage::Parse => "parse",
        })
    }
}

/// What is wrong with a batch, and where in it.
#[derive(Debug, thiserror::Error)]
#[error("{stage}, byte {offset}: {reason}")]
pub struct InputError {
    /// The stage that refused it.
    pub stage: Stage,
    /// Bytes from the start: of the compressed file for [`Stage::Decompress`], of the document for [`Stage::Parse`].
    pub offset: u64,
    /// What was found there, and what to do if anything can be done.
    pub reason: String,
}

impl InputError {
    pub(crate) fn parse(offset: u64, reason: impl Into<String>) -> Self {
        Self { stage: Stage::Parse, offset, reason: reason.into() }
    }
}

/// The pipeline's results.
pub type Result<T, E = Error> = std::result::Result<T, E>;
