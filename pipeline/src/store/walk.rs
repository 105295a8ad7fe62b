//! The names in a folder, in the order of keys.

use super::directory::OWN;
use std::path::Path;
use std::{fs, io};

/// A walk through the folders, depth first, skipping those that cannot hold a match.
pub(super) struct Walk<'a> {
    pub root: &'a Path,
    pub prefix: &'a str,
    pub after: &'a str,
}

/// Of the keys, bytewise.
#[derive(Clone, Copy)]
pub(super) enum Order {
    Ascending,
    Descending,
}

impl Walk<'_> {
    /// Calls `found` for every name below `folder` (empty, or ending in `/`) until it returns false; then so does this.
    pub fn folder(
        &self,
        folder: &str,
        order: Order,
        found: &mut impl FnMut(&str) -> io::Result<bool>,
    ) -> io::Result<bool> {
        let entries = match fs::read_dir(self.root.join(folder)) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(true),
            Err(e) => return Err(e),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry?;
            let Some(name) = entry.file_name().to_str().map(|n| format!("{folder}{n}")) else {
                tracing::warn!(path = %entry.path().display(), "not listed: the name is not UTF-8");
                continue;
            };
            // A folder sorts as `name/`, as its keys do.
            let is_folder = entry.file_type()?.is_dir() || (entry.file_type()?.is_symlink() && entry.path().is_dir());
            let name = if is_folder { name + "/" } else { name };
            if self.may_match(&name, is_folder) {
                names.push(name);
            }
        }
        names.sort_unstable();
        if matches!(order, Order::Descending) {
            names.reverse();
        }
        for name in names {
            let goes_on = if name.ends_with('/') { self.folder(&name, order, found)? } else { found(&name)? };
            if !goes_on {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn may_match(&self, name: &str, is_folder: bool) -> bool {
        if name == format!("{OWN}/") {
            return false;
        }
        if is_folder {
            let in_prefix = name.starts_with(self.prefix) || self.prefix.starts_with(name);
            in_prefix && (self.after < name || self.after.starts_with(name))
        } else {
            name.starts_with(self.prefix) && name > self.after
        }
    }
}
