//! The ends of files, their metadata and filters, kept on this machine: a trace among ten thousand files of a bucket is
//! then found with a listing, and without a request for each of them. Of a pack that is no larger than what is read of a
//! file's end, that is all of it.
//!
//! One file an entry: `{folder}/{store}/{nodes|spans}/{hash of the key}`. Objects of a packed store are written once and
//! never changed, so an entry is good as long as the object is there. Each begins with a BLAKE3 of its key and of what
//! follows; one that is not what was written is as good as none.

use super::format::Window;
use super::{NODES, SPANS};
use crate::store::Key;
use bytes::Bytes;
use std::collections::HashSet;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The entries of one store.
#[derive(Debug, Clone)]
pub struct Footers {
    folder: PathBuf,
}

/// Tells this format from others: an entry of another one has another hash.
const FORMAT: &[u8] = b"gravity footer 1";
/// Bytes before an entry's end of the file: the hash, the object's size, where its end begins.
const HEAD: usize = 32 + 8 + 8;
/// An entry of a file of nodes goes after so long, since nobody lists those: it may hold texts that the store has not any
/// more.
const NODES_KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

impl Footers {
    /// The entries of the store at `location`, below `cache`.
    pub fn new(cache: &Path, location: &str) -> Self {
        Self { folder: cache.join(&blake3::hash(location.as_bytes()).to_hex()[..16]) }
    }

    /// The end of an object, if it is known. `size`: that of the object, if the caller knows it.
    pub(super) fn get(&self, key: &Key, size: Option<u64>) -> Option<Window> {
        let entry = Bytes::from(fs::read(self.path(key)).ok()?);
        let (hash, rest) = entry.split_at_checked(32)?;
        if *hash != *hash_of(key, rest).as_bytes() {
            return None;
        }
        let numbers = rest.first_chunk::<16>()?;
        let number = |at: usize| numbers[at..].first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
        let window = Window { size: number(0)?, start: number(8)?, bytes: entry.slice(HEAD..) };
        size.is_none_or(|size| size == window.size).then_some(window)
    }

    /// Notes the end of an object. A cache that cannot be written to is none.
    pub(super) fn put(&self, key: &Key, end: &Window) {
        if let Err(e) = self.write(key, end) {
            tracing::debug!("{}: {e}", self.folder.display());
        }
    }

    /// Forgets the end of an object that is gone.
    pub(super) fn forget(&self, key: &Key) {
        let _ = fs::remove_file(self.path(key));
    }

    fn write(&self, key: &Key, end: &Window) -> io::Result<()> {
        let path = self.path(key);
        let folder = path.parent().unwrap_or(&self.folder);
        fs::create_dir_all(folder)?;
        let rest = [&end.size.to_le_bytes()[..], &end.start.to_le_bytes(), &end.bytes].concat();
        // Other processes see all of it or nothing.
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(hash_of(key, &rest).as_bytes())?;
        file.write_all(&rest)?;
        file.persist(path)?;
        Ok(())
    }

    /// Removes the entries of files of spans that are not among these any more, and old ones of files of nodes.
    pub(super) fn keep(&self, spans: &HashSet<&Key>) {
        let names: HashSet<String> = spans.iter().map(|key| name_of(key)).collect();
        for entry in fs::read_dir(self.folder.join(SPANS)).into_iter().flatten().flatten() {
            let is_listed = entry.file_name().to_str().is_some_and(|name| names.contains(name));
            // One that has just been written may be of a file that came after the listing, or be on its way.
            if !is_listed && is_older(&entry, Duration::from_secs(3600)) {
                let _ = fs::remove_file(entry.path());
            }
        }
        for entry in fs::read_dir(self.folder.join(NODES)).into_iter().flatten().flatten() {
            if is_older(&entry, NODES_KEPT) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    fn path(&self, key: &Key) -> PathBuf {
        let folder = if key.as_str().starts_with(SPANS) { SPANS } else { NODES };
        self.folder.join(folder).join(name_of(key))
    }
}

/// An entry's name. Not the key itself: that may be anything.
fn name_of(key: &Key) -> String {
    blake3::hash(key.as_str().as_bytes()).to_hex()[..32].to_owned()
}

fn hash_of(key: &Key, rest: &[u8]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(FORMAT);
    hasher.update(&(key.as_str().len() as u64).to_le_bytes());
    hasher.update(key.as_str().as_bytes());
    hasher.update(rest);
    hasher.finalize()
}

fn is_older(entry: &fs::DirEntry, than: Duration) -> bool {
    let modified = entry.metadata().and_then(|meta| meta.modified());
    modified.is_ok_and(|at| at.elapsed().is_ok_and(|age| age > than))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end() -> Window {
        Window { start: 900, bytes: Bytes::from_static(b"its metadata"), size: 912 }
    }

    fn found(footers: &Footers, key: &Key, size: Option<u64>) -> Option<(u64, Bytes, u64)> {
        footers.get(key, size).map(|window| (window.start, window.bytes, window.size))
    }

    #[test]
    fn an_entry_is_of_one_object_of_one_store() {
        let folder = tempfile::tempdir().unwrap();
        let footers = Footers::new(folder.path(), "s3://bucket");
        let key = Key::listed("spans/../../x");
        assert_eq!(found(&footers, &key, None), None);
        footers.put(&key, &end());
        let window = Some((900, Bytes::from_static(b"its metadata"), 912));
        assert_eq!(found(&footers, &key, None), window);
        assert_eq!(found(&footers, &key, Some(912)), window);
        assert_eq!(found(&footers, &key, Some(913)), None);
        assert_eq!(found(&footers, &Key::listed("spans/x"), None), None);
        assert_eq!(found(&Footers::new(folder.path(), "s3://other"), &key, None), None);
    }

    #[test]
    fn a_damaged_entry_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let footers = Footers::new(folder.path(), "s3://bucket");
        let (key, other) = (Key::listed("spans/x"), Key::listed("spans/y"));
        footers.put(&key, &end());
        let whole = fs::read(footers.path(&key)).unwrap();
        fs::write(footers.path(&other), &whole).unwrap();
        assert_eq!(found(&footers, &other, None), None, "another's");
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            fs::write(footers.path(&key), &damaged).unwrap();
            assert_eq!(found(&footers, &key, None), None, "byte {at}");
            fs::write(footers.path(&key), &whole[..at]).unwrap();
            assert_eq!(found(&footers, &key, None), None, "{at} bytes");
        }
    }

    #[test]
    fn entries_of_objects_that_are_gone_go_after_an_hour() {
        let folder = tempfile::tempdir().unwrap();
        let footers = Footers::new(folder.path(), "s3://bucket");
        let keys: Vec<Key> = ["there", "gone", "new"].map(|name| Key::listed(format!("spans/{name}"))).to_vec();
        for key in &keys {
            footers.put(key, &end());
        }
        let past = std::time::SystemTime::now() - Duration::from_secs(3601);
        for key in &keys[..2] {
            fs::File::options().write(true).open(footers.path(key)).unwrap().set_modified(past).unwrap();
        }
        footers.keep(&HashSet::from([&keys[0]]));
        let left: Vec<bool> = keys.iter().map(|key| footers.get(key, None).is_some()).collect();
        assert_eq!(left, [true, false, true]);
    }

    #[test]
    fn a_folder_that_cannot_be_written_to_is_no_cache() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "in the way").unwrap();
        let footers = Footers::new(&file, "s3://bucket");
        let key = Key::listed("spans/x");
        footers.put(&key, &end());
        footers.keep(&HashSet::new());
        assert_eq!(found(&footers, &key, None), None);
    }
}
