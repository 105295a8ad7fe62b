//! Names of objects, checked once so that no code behind has to.

use std::fmt;

/// An object's name: `/`-separated segments, none empty, `.` or `..`, no control characters, at most 1,000 bytes.
/// Such a name stays inside the store's folder or prefix whatever it was made from.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(String);

/// S3 allows 1,024 bytes; the rest is left for the store's own prefix.
const MAX_LEN: usize = 1000;
/// What file systems allow for one name, less room for a temporary suffix.
const MAX_SEGMENT: usize = 240;

impl Key {
    /// Takes a name that already has the right form.
    pub fn new(name: impl Into<String>) -> Result<Self, super::Error> {
        let name = name.into();
        let bad = |reason: &str| super::Error {
            kind: super::ErrorKind::BadKey,
            operation: "name",
            target: name.escape_debug().to_string(),
            message: reason.into(),
        };
        if name.len() > MAX_LEN {
            return Err(bad("longer than 1,000 bytes"));
        }
        if name.chars().any(char::is_control) {
            return Err(bad("holds a control character"));
        }
        if name.split('/').any(|segment| matches!(segment, "" | "." | "..")) {
            return Err(bad("has an empty, `.` or `..` segment"));
        }
        Ok(Self(name))
    }

    /// A name that a store's own listing gave: an S3 key may have any form, and only the store it came from reads it.
    pub(crate) fn listed(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    /// `folder/{name}{suffix}` for a name of any form: what a [`Key`] cannot hold is percent-encoded, and what is
    /// too long is cut and told apart by its BLAKE3. Different names give different keys; the ordinary ones, such
    /// as S3 keys and relative paths, stay as they are.
    pub fn encode(folder: &str, name: &str, suffix: &str) -> Self {
        let mut encoded = encode_segments(name);
        let fits = |segments: &[String]| {
            segments.iter().all(|s| s.len() + suffix.len() <= MAX_SEGMENT)
                && folder.len() + suffix.len() + segments.iter().map(|s| s.len() + 1).sum::<usize>() <= MAX_LEN
        };
        if !fits(&encoded) {
            encoded = vec!["%long".into(), blake3::hash(name.as_bytes()).to_hex().to_string()];
        }
        Self(format!("{folder}/{}{suffix}", encoded.join("/")))
    }

    /// `name` itself where it is a key's, else percent-encoded as by [`Key::encode`].
    pub fn of(name: &str) -> Self {
        Self::new(name).unwrap_or_else(|_| {
            let encoded = Self::encode("x", name, "");
            Self(encoded.0["x/".len()..].to_owned())
        })
    }

    /// `name`, which ends in `suffix`, as that of a file in a folder of any machine: itself where it is a key's and no
    /// segment is too long, else percent-encoded with what Windows takes for more than a name (`\\`, a drive's `:`), and
    /// what is too long told apart by its BLAKE3.
    pub fn of_file(name: &str, suffix: &str) -> Self {
        let mut encoded = Self::new(name).map_or_else(|_| encode_segments(name).join("/"), |key| key.0);
        encoded = encoded.replace('\\', "%5C");
        if let [drive, b':', ..] = encoded.as_bytes()
            && drive.is_ascii_alphabetic()
        {
            encoded.replace_range(1..2, "%3A");
        }
        if encoded.len() > MAX_LEN || encoded.split('/').any(|segment| segment.len() > MAX_SEGMENT) {
            encoded = format!("%long/{}{suffix}", blake3::hash(name.as_bytes()).to_hex());
        }
        Self(encoded)
    }

    /// The inverse of [`Key::encode`] for a key below `folder` with that suffix; `None` for others and for names
    /// that were too long (their objects hold the name).
    pub fn decode(&self, folder: &str, suffix: &str) -> Option<String> {
        let rest = self.0.strip_prefix(folder)?.strip_prefix('/')?.strip_suffix(suffix)?;
        if rest.starts_with("%long/") {
            return None;
        }
        if !rest.contains('%') {
            return Some(rest.to_owned());
        }
        let mut bytes = Vec::with_capacity(rest.len());
        let mut pieces = rest.split('%');
        bytes.extend_from_slice(pieces.next()?.as_bytes());
        for piece in pieces {
            let code = piece.get(..2)?;
            // `%--` stands for an empty segment and adds nothing.
            if code != "--" {
                bytes.push(u8::from_str_radix(code, 16).ok()?);
            }
            bytes.extend_from_slice(&piece.as_bytes()[2..]);
        }
        String::from_utf8(bytes).ok()
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The segments of a name, each as a key can hold it.
fn encode_segments(name: &str) -> Vec<String> {
    let mut encoded: Vec<String> = name.split('/').map(encode_segment).collect();
    // `b` is the object `b.json`; the folder of `b.json/c` must be another name, for file systems.
    if let Some((_, folders)) = encoded.split_last_mut() {
        for folder in folders {
            if let Some(stem) = folder.strip_suffix(".json") {
                *folder = format!("{stem}%2Ejson");
            }
        }
    }
    encoded
}

fn encode_segment(segment: &str) -> String {
    match segment {
        "" => return "%--".into(),
        "." => return "%2E".into(),
        ".." => return "%2E%2E".into(),
        _ => {}
    }
    let mut out = String::with_capacity(segment.len());
    for c in segment.chars() {
        // Control characters above ASCII are two bytes in UTF-8; each is encoded.
        if c.is_control() || c == '%' {
            let mut buffer = [0; 4];
            for byte in c.encode_utf8(&mut buffer).bytes() {
                out.push_str(&format!("%{byte:02X}"));
            }
        } else {
            out.push(c);
        }
    }
    out
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_ordinary_batch_key_stays_as_it_is() {
        let key = Key::encode("batches", "raw-spans/dt=2025-10-31/hour=11/batch-1.json.gz", ".json");
        assert_eq!(key.as_str(), "batches/raw-spans/dt=2025-10-31/hour=11/batch-1.json.gz.json");
    }

    #[test]
    fn an_objects_name_is_never_another_ones_folder() {
        let object = Key::encode("batches", "b", ".json");
        let below = Key::encode("batches", "b.json/c", ".json");
        assert_eq!(object.as_str(), "batches/b.json");
        assert_eq!(below.as_str(), "batches/b%2Ejson/c.json");
        assert_eq!(below.decode("batches", ".json").unwrap(), "b.json/c");
    }

    #[test]
    fn names_that_leave_the_folder_are_refused_or_encoded() {
        for name in ["../x", "a/../../x", "/etc/passwd", "a//b", "./a", "a\0b", ""] {
            assert!(Key::new(name).is_err(), "{name:?}");
            let key = Key::encode("batches", name, ".json");
            assert!(Key::new(key.as_str()).is_ok(), "{key}");
        }
    }

    #[test]
    fn a_name_that_is_a_key_stays_and_any_other_is_made_one() {
        for (name, key) in [
            ("raw-spans/dt=2025-10-31/b.json.gz", "raw-spans/dt=2025-10-31/b.json.gz"),
            ("%2E%2E/x", "%2E%2E/x"),
            ("../x", "%2E%2E/x"),
            ("/etc/passwd", "%--/etc/passwd"),
            ("a/../../x", "a/%2E%2E/%2E%2E/x"),
            ("a//b\0", "a/%--/b%00"),
            ("", "%--"),
        ] {
            assert_eq!(Key::of(name).as_str(), key);
            assert!(Key::new(key).is_ok());
        }
    }

    #[test]
    fn a_file_has_a_name_that_every_machine_has_for_a_file() {
        let long = format!("a/{}.gz", "x".repeat(MAX_SEGMENT));
        let hashed = format!("%long/{}.gz", blake3::hash(long.as_bytes()).to_hex());
        for (name, key) in [
            ("raw-spans/dt=2025-10-31/11:00:00.json.gz", "raw-spans/dt=2025-10-31/11:00:00.json.gz"),
            ("C:\\x.gz", "C%3A%5Cx.gz"),
            ("c:x/y.gz", "c%3Ax/y.gz"),
            ("..\\x.gz", "..%5Cx.gz"),
            ("../x.gz", "%2E%2E/x.gz"),
            (&*long, &*hashed),
        ] {
            assert_eq!(Key::of_file(name, ".gz").as_str(), key);
        }
    }

    proptest! {
        #[test]
        fn a_files_name_is_a_key_whatever_it_is_made_of(name in r"(?s)[./\\:a]{0,40}.{0,300}") {
            let key = Key::of_file(&format!("{name}.gz"), ".gz");
            prop_assert!(Key::new(key.as_str()).is_ok());
            prop_assert!(key.as_str().ends_with(".gz") && !key.as_str().contains('\\'));
            prop_assert!(key.as_str().split('/').all(|segment| segment.len() <= MAX_SEGMENT));
        }

        #[test]
        fn encoding_any_name_gives_a_valid_key_and_comes_back(name in "(?s).{0,60}") {
            let key = Key::encode("batches", &name, ".json");
            prop_assert!(Key::new(key.as_str()).is_ok());
            prop_assert_eq!(key.decode("batches", ".json"), Some(name));
        }

        #[test]
        fn a_name_of_any_length_fits(name in "[a-z/]{900,1500}") {
            prop_assert!(Key::new(Key::encode("batches", &name, ".json").as_str()).is_ok());
        }
    }
}
