//! Stage 3: cuts a part at the separator. Nothing is trimmed and nothing dropped, so joining gives the part back.

use crate::block::Block;
use crate::error::Result;
use crate::otlp::{Part, Record};
use bytes::Bytes;
use futures::{Stream, TryStreamExt};
use memchr::memmem;
use std::fmt;
use std::str::FromStr;

/// What parts are cut at: one byte or more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Separator(String);

impl Default for Separator {
    fn default() -> Self {
        Self("\n".into())
    }
}

impl Separator {
    /// Takes a separator as it is.
    ///
    /// # Errors
    /// If it is empty: nothing can be cut at nothing.
    pub fn new(separator: impl Into<String>) -> Result<Self, &'static str> {
        let separator = separator.into();
        if separator.is_empty() { Err("must not be empty") } else { Ok(Self(separator)) }
    }

    /// The separator.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The separator's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

/// As written in a configuration: `\n`, `\r`, `\t`, `\0` and `\\` stand for the characters.
impl FromStr for Separator {
    type Err = String;

    fn from_str(written: &str) -> Result<Self, String> {
        let mut separator = String::new();
        let mut chars = written.chars();
        while let Some(c) = chars.next() {
            separator.push(match (c, if c == '\\' { chars.next() } else { None }) {
                ('\\', Some('n')) => '\n',
                ('\\', Some('r')) => '\r',
                ('\\', Some('t')) => '\t',
                ('\\', Some('0')) => '\0',
                ('\\', Some('\\')) => '\\',
                ('\\', _) => return Err(r"a `\` must be followed by n, r, t, 0 or another `\`".into()),
                (c, _) => c,
            });
        }
        Ok(Self::new(separator)?)
    }
}

impl fmt::Display for Separator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_default())
    }
}

/// A part, cut.
#[derive(Debug)]
pub struct SplitPart {
    /// The event's name, if it stood in one.
    pub event: Option<String>,
    /// The attribute's key, or `body`.
    pub key: String,
    /// Its chunks, in order: at least one, which may be empty.
    pub chunks: Vec<Bytes>,
    /// Bytes of the whole part.
    pub bytes: u64,
}

/// Cuts the parts of every record.
pub fn split<S>(records: S, separator: Separator) -> impl Stream<Item = Result<Block<Record<SplitPart>>>> + Send
where
    S: Stream<Item = Result<Block<Record>>> + Send,
{
    records.map_ok(move |block| split_block(block, &separator))
}

/// Cuts the parts of the records of one block.
pub fn split_block(block: Block<Record>, separator: &Separator) -> Block<Record<SplitPart>> {
    block.map(|record| {
        record.map_parts(|Part { event, key, content }| SplitPart {
            event,
            key,
            bytes: content.len() as u64,
            chunks: cut(&content, separator),
        })
    })
}

/// Cuts at every separator, from the left, without overlap.
pub fn cut(content: &Bytes, separator: &Separator) -> Vec<Bytes> {
    let separator = separator.as_bytes();
    let mut from = 0;
    let mut chunks = Vec::new();
    for at in memmem::find_iter(content, separator) {
        chunks.push(content.slice(from..at));
        from = at + separator.len();
    }
    chunks.push(content.slice(from..));
    chunks
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn join(chunks: &[Bytes], separator: &Separator) -> Vec<u8> {
        chunks.join(separator.as_bytes())
    }

    #[test]
    fn blanks_empty_lines_and_carriage_returns_are_kept() {
        let content = Bytes::from_static(b"\n  a \r\n\n\tb\0\n");
        let chunks = cut(&content, &Separator::default());
        assert_eq!(chunks, ["", "  a \r", "", "\tb\0", ""]);
        assert_eq!(cut(&Bytes::new(), &Separator::default()), [""]);
    }

    #[test]
    fn a_configured_separator_may_be_written_with_escapes() {
        assert_eq!(r"\r\n\\x\t".parse::<Separator>().unwrap().as_str(), "\r\n\\x\t");
        assert!("".parse::<Separator>().is_err());
        assert!(r"\q".parse::<Separator>().is_err());
    }

    proptest! {
        #[test]
        fn joining_gives_the_content_back(content: Vec<u8>, separator in "(?s).{1,3}") {
            let separator = Separator::new(separator).unwrap();
            let chunks = cut(&Bytes::from(content.clone()), &separator);
            prop_assert_eq!(join(&chunks, &separator), content);
        }

        #[test]
        fn joining_gives_back_content_made_of_separators(pieces in prop::collection::vec("[ab]{0,3}", 0..20), separator in "[ab]{1,3}") {
            let separator = Separator::new(separator).unwrap();
            let content = pieces.concat().into_bytes();
            let chunks = cut(&Bytes::from(content.clone()), &separator);
            prop_assert_eq!(join(&chunks, &separator), content);
        }
    }
}
