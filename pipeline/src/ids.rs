//! Trace and span ids: bytes inside, lowercase hex outside.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use std::str::FromStr;

/// Bytes shown as lowercase hex. All zero is not an id (W3C Trace Context).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id<const N: usize>([u8; N]);

/// Names a trace.
pub type TraceId = Id<16>;
/// Names a span within its trace.
pub type SpanId = Id<8>;

impl<const N: usize> Id<N> {
    /// Takes the bytes of an id.
    ///
    /// # Errors
    /// What is wrong with them, if it is not one.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        let id: [u8; N] = bytes.try_into().map_err(|_| format!("{} bytes instead of {N}", bytes.len()))?;
        if id == [0; N] { Err("all zero".into()) } else { Ok(Self(id)) }
    }

    /// Takes hex digits of either case.
    ///
    /// # Errors
    /// What is wrong with them, if they are not an id.
    pub fn from_hex(hex: &[u8]) -> Result<Self, String> {
        if hex.len() != 2 * N {
            return Err(format!("{} hex digits instead of {}", hex.len(), 2 * N));
        }
        let mut id = [0; N];
        for (byte, pair) in id.iter_mut().zip(hex.chunks_exact(2)) {
            let digit = |c: u8| char::from(c).to_digit(16).ok_or("not hex digits");
            *byte = (digit(pair[0])? << 4 | digit(pair[1])?) as u8;
        }
        Self::from_bytes(&id)
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8; N] {
        &self.0
    }
}

impl<const N: usize> fmt::Display for Id<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl<const N: usize> fmt::Debug for Id<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<const N: usize> FromStr for Id<N> {
    type Err = String;

    fn from_str(hex: &str) -> Result<Self, String> {
        Self::from_hex(hex.as_bytes())
    }
}

impl<const N: usize> Serialize for Id<N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de, const N: usize> Deserialize<'de> for Id<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_of_either_case_is_the_same_id() {
        let id: TraceId = "44E0aa00000000000000000000000001".parse().unwrap();
        assert_eq!(id.to_string(), "44e0aa00000000000000000000000001");
    }

    #[test]
    fn what_is_not_an_id_is_refused_with_the_reason() {
        for (hex, reason) in [
            ("", "0 hex digits instead of 32"),
            ("zz000000000000000000000000000000", "not hex digits"),
            ("00000000000000000000000000000000", "all zero"),
            ("../../../../../../../etc/passwd0", "not hex digits"),
        ] {
            assert_eq!(hex.parse::<TraceId>(), Err(reason.to_owned()), "{hex}");
        }
    }
}
