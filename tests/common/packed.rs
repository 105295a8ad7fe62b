//! Packed stores.

use super::{Place, run};
use std::path::{Path, PathBuf};

/// An empty packed store.
pub fn packed() -> Place {
    let place = Place::new();
    place.write("data/gravity.json", r#"{"format":1,"layout":"packed","separator":"\n"}"#);
    place
}

/// The program with that command on a store at some other place, in this folder.
pub fn command_on(place: &Place, name: &str, store: &str) -> std::process::Command {
    let mut command = super::gravity();
    command.current_dir(place.folder.path()).args([name, "--store", store]);
    command
}

impl Place {
    /// Ingests a file of this name below the place's folder in a flush of its own; its key is that name.
    #[track_caller]
    pub fn ingest_file(&self, name: &str, bytes: impl AsRef<[u8]>) {
        self.write(name, bytes);
        run(self.command("ingest").args(["--again", name])).exits(0);
    }

    /// The one object below a folder of the store.
    #[track_caller]
    pub fn only(&self, folder: &str) -> PathBuf {
        let store = self.store();
        let keys = store.keys(folder);
        assert_eq!(keys.len(), 1, "{keys:?}");
        self.data().join(keys[0])
    }
}

/// Keys below a folder of the place, whatever is in it.
pub fn files_below(folder: &Path) -> Vec<String> {
    super::store::Files::of(folder).0.into_keys().collect()
}
