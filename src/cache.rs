//! Where the ends of a packed store's files are kept on this machine.

use crate::config::StoreArgs;
use clap::Args;
use gravity_pipeline::packed::footers::Footers;
use std::path::PathBuf;

/// What a reader keeps of a bucket.
#[derive(Debug, Args)]
pub struct CacheArgs {
    /// Folder for the ends of a packed bucket's files, and small ones whole, so that each is read once; `none` keeps none
    /// [default: $XDG_CACHE_HOME/gravity, else ~/.cache/gravity].
    #[arg(long, env = "GRAVITY_CACHE_DIR", value_name = "DIR|none", help_heading = "Store")]
    pub cache_dir: Option<String>,
}

impl CacheArgs {
    /// The ends of this store's files; `None` for a folder, which is as near as they are.
    pub fn footers(&self, store: &StoreArgs) -> Option<Footers> {
        let bucket = store.bucket_id()?;
        let folder = match self.cache_dir.as_deref() {
            Some("none") => return None,
            Some(folder) => PathBuf::from(folder),
            None => default_folder()?,
        };
        Some(Footers::new(&folder, &bucket))
    }
}

fn default_folder() -> Option<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?;
    Some(cache.join("gravity"))
}
