//! The names under which batches are restored as gzip files: they follow from the keys of the store's batches alone, so
//! that a run that is repeated, for whatever range, gives the same.

use crate::store::Key;
use std::collections::{HashMap, HashSet};

/// The name of each batch of a store.
pub struct Names {
    /// Those that do not have the plain one, since another batch has it or needs it for a folder.
    others: HashMap<String, Key>,
}

impl Names {
    /// The names of these batches, no two of them the same.
    pub fn new<'b>(batches: impl IntoIterator<Item = &'b str>) -> Self {
        let mut owners: HashMap<Key, Vec<&str>> = HashMap::new();
        for batch in batches {
            owners.entry(plain(batch)).or_default().push(batch);
        }
        let folders: HashSet<&str> = owners.keys().flat_map(|name| folders(name.as_str())).collect();
        let mut others = HashMap::new();
        for (name, batches) in &owners {
            // Whose own name it is keeps it, else the first; none does in whose place there must be a folder.
            let keeps = batches.iter().min_by_key(|batch| (**batch != name.as_str(), **batch));
            let keeps = keeps.filter(|_| !folders.contains(name.as_str()));
            let rest = batches.iter().filter(|batch| Some(*batch) != keeps);
            others.extend(rest.map(|batch| (batch.to_string(), unmistakable(batch))));
        }
        Self { others }
    }

    /// The name of this batch.
    pub fn get(&self, batch: &str) -> Key {
        self.others.get(batch).cloned().unwrap_or_else(|| plain(batch))
    }
}

/// A batch's own name, as that of a gzip file. `.gz` stays, `.zst` becomes `.gz`, and what has neither gets it. What no
/// file can be named is percent-encoded, so that it stays below wherever it is put.
fn plain(batch: &str) -> Key {
    let name = match batch.strip_suffix(".zst") {
        Some(name) => format!("{name}.gz"),
        None if batch.ends_with(".gz") => batch.to_owned(),
        None => format!("{batch}.gz"),
    };
    file(&name)
}

/// The name of a batch whose plain one is another's: whole, and told apart by its BLAKE3.
fn unmistakable(batch: &str) -> Key {
    file(&format!("{batch}.{}.gz", &blake3::hash(batch.as_bytes()).to_hex()[..16]))
}

fn file(name: &str) -> Key {
    let key = Key::of_file(name, ".gz");
    // A directory keeps its own files there.
    match key.as_str().strip_prefix(".gravity/") {
        Some(rest) => Key::listed(format!("%2Egravity/{rest}")),
        None => key,
    }
}

/// The folders that a file of this name is in.
fn folders(name: &str) -> impl Iterator<Item = &str> {
    name.match_indices('/').map(|(at, _)| &name[..at])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named<const N: usize>(batches: [&str; N]) -> [String; N] {
        let names = Names::new(batches);
        batches.map(|batch| names.get(batch).as_str().to_owned())
    }

    #[test]
    fn a_restored_batch_is_named_as_the_gzip_file_that_it_is() {
        for (batch, name) in [
            ("raw-spans/a.json.gz", "raw-spans/a.json.gz"),
            ("raw-spans/a.json", "raw-spans/a.json.gz"),
            ("raw-spans/a.binpb", "raw-spans/a.binpb.gz"),
            ("raw-spans/a.binpb.zst", "raw-spans/a.binpb.gz"),
            ("stdin/0123456789abcdef", "stdin/0123456789abcdef.gz"),
        ] {
            assert_eq!(named([batch]), [name]);
        }
    }

    #[test]
    fn no_name_leads_out_of_the_place_or_into_its_own_folder() {
        for batch in [
            "../x",
            "/etc/passwd",
            "a/../../x",
            "..",
            "a//b",
            ".gravity/locks/00",
            "%2E%2E/x",
            "..\\x",
            "C:\\x",
            "x/..",
        ] {
            let [name] = named([batch]);
            assert!(Key::new(&*name).is_ok(), "{name}");
            assert!(!name.starts_with(".gravity/") && !name.contains('\\'), "{name}");
            assert!(name.split('/').all(|segment| segment != ".." && !segment.is_empty()), "{name}");
        }
    }

    #[test]
    fn of_batches_with_one_name_the_one_whose_own_it_is_keeps_it() {
        let hash = |batch: &str| blake3::hash(batch.as_bytes()).to_hex()[..16].to_owned();
        let (zst, none) = (format!("a.zst.{}.gz", hash("a.zst")), format!("a.{}.gz", hash("a")));
        assert_eq!(named(["a.zst", "a.gz", "a"]), [&*zst, "a.gz", &none]);
        assert_eq!(named(["a.gz", "a", "a.zst"]), ["a.gz", &none, &zst]);
        assert_eq!(named(["a.zst", "a"]), [&*zst, "a.gz"]);
        let encoded = format!("%2E%2E/a.{}.gz", hash("../a"));
        assert_eq!(named(["../a", "%2E%2E/a.gz"]), [&*encoded, "%2E%2E/a.gz"]);
    }

    #[test]
    fn a_name_that_is_a_folder_of_another_is_not_given() {
        let [file, below] = named(["a.gz", "a.gz/b"]);
        assert!(file.starts_with("a.gz.") && file.ends_with(".gz"), "{file}");
        assert_eq!(below, "a.gz/b.gz");
    }
}
