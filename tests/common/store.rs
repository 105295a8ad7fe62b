//! A store as any other program sees it: files, gzip and JSON. Nothing here knows Gravity's code.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::Path;

/// All objects by key, without the store's own folder.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Files(pub BTreeMap<String, Vec<u8>>);

impl Files {
    /// What is below a folder; nothing if it is not there.
    pub fn of(root: &Path) -> Self {
        let mut files = Self::default();
        files.add(root, root);
        files.0.retain(|key, _| !key.starts_with(".gravity/"));
        files
    }

    fn add(&mut self, root: &Path, folder: &Path) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                self.add(root, &path);
            } else if let Some(bytes) = path.is_file().then(|| fs::read(&path).ok()).flatten() {
                let key = path.strip_prefix(root).expect("it is below").to_str().expect("UTF-8");
                self.0.insert(key.to_owned(), bytes);
            }
        }
    }

    /// The keys below a folder.
    pub fn keys(&self, folder: &str) -> Vec<&str> {
        self.0.keys().map(String::as_str).filter(|key| key.starts_with(&format!("{folder}/"))).collect()
    }

    /// An object as JSON.
    #[track_caller]
    pub fn json(&self, key: &str) -> serde_json::Value {
        parse(key, self.0.get(key).unwrap_or_else(|| panic!("{key} is not in the store")))
    }

    /// An object as JSON Lines.
    #[track_caller]
    pub fn json_lines(&self, key: &str) -> Vec<serde_json::Value> {
        let lines = self.0[key].split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
        lines.map(|line| serde_json::from_slice(line).expect("a line of JSON")).collect()
    }

    /// What a reader of the original format makes of a trace: it knows `hashes` and blobs, and nothing else.
    #[track_caller]
    pub fn read_original(&self, trace: &str) -> Vec<u8> {
        let index = self.json(&format!("indexes/{trace}.json"));
        assert_eq!(index["trace_id"], trace);
        let hashes = index["hashes"].as_array().expect("a list");
        let chunks: Vec<_> = hashes.iter().map(|hash| self.blob(hash.as_str().expect("a hash"))).collect();
        chunks.join(&b'\n')
    }

    /// A chunk, checked against its name.
    #[track_caller]
    fn blob(&self, hash: &str) -> Vec<u8> {
        let key = format!("blobs/{}/{hash}.gz", &hash[..2]);
        let blob = self.0.get(&key).unwrap_or_else(|| panic!("an index names {key}, which is not there"));
        let mut chunk = Vec::new();
        flate2::read::GzDecoder::new(&blob[..]).read_to_end(&mut chunk).unwrap_or_else(|e| panic!("{key}: {e}"));
        assert_eq!(blake3::hash(&chunk).to_hex().as_str(), hash, "{key} holds something else");
        chunk
    }

    /// Checks that whatever the store says is there is there: every chunk of every index, with the right content,
    /// and every trace of every ledger entry.
    #[track_caller]
    pub fn check(&self) -> &Self {
        let traces = self.keys("indexes").into_iter();
        for trace in traces.map(|key| &key["indexes/".len()..key.len() - ".json".len()]) {
            self.read_original(trace);
        }
        for key in self.keys("batches") {
            for trace in self.json(key)["traces"].as_array().expect("a list") {
                let index = format!("indexes/{}.json", trace.as_str().expect("an id"));
                assert!(self.0.contains_key(&index), "{key} names {index}, which is not there");
            }
        }
        self
    }

    /// Checks that both hold the same, but for how often a batch in quarantine was tried.
    #[track_caller]
    pub fn same_as(&self, other: &Self) -> &Self {
        let without_tries = |key: &str, bytes: &Vec<u8>| {
            if !key.starts_with("quarantine/") || !key.ends_with(".json") {
                return bytes.clone();
            }
            let mut entry = parse(key, bytes);
            entry["tries"] = 0.into();
            entry.to_string().into_bytes()
        };
        let differ = |key: &&String| match (self.0.get(*key), other.0.get(*key)) {
            (Some(ours), Some(theirs)) => without_tries(key, ours) != without_tries(key, theirs),
            _ => true,
        };
        let different: std::collections::BTreeSet<_> = self.0.keys().chain(other.0.keys()).filter(differ).collect();
        let of = |files: &Self, key: &String| match files.0.get(key) {
            Some(bytes) => format!("{} bytes: {:.300}", bytes.len(), String::from_utf8_lossy(bytes)),
            None => "is not there".to_owned(),
        };
        let told: Vec<_> =
            different.iter().take(5).map(|k| format!("{k}\n  {}\n  {}", of(self, k), of(other, k))).collect();
        assert!(different.is_empty(), "{} objects differ:\n{}", different.len(), told.join("\n"));
        self
    }

    /// Checks that nothing was committed.
    #[track_caller]
    pub fn holds_no_batch(&self) -> &Self {
        assert_eq!(self.keys("indexes"), [""; 0], "an index was written");
        assert_eq!(self.keys("batches"), [""; 0], "a ledger entry was written");
        self
    }
}

#[track_caller]
fn parse(key: &str, json: &[u8]) -> serde_json::Value {
    serde_json::from_slice(json).unwrap_or_else(|e| panic!("{key}: {e}"))
}
