//! The names in a folder, in the order of keys.

use super::directory::OWN;
use std::collections::BinaryHeap;
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
            let Ok(file_name) = entry.file_name().into_string() else {
                tracing::warn!(path = %entry.path().display(), "not listed: the name is not UTF-8");
                continue;
            };
            // A folder sorts as `name/`, as its keys do.
            let kind = entry.file_type()?;
            let is_folder = kind.is_dir() || (kind.is_symlink() && entry.path().is_dir());
            let mut name = String::with_capacity(folder.len() + file_name.len() + 1);
            name.push_str(folder);
            name.push_str(&file_name);
            if is_folder {
                name.push('/');
            }
            if self.may_match(&name, is_folder) {
                names.push(name);
            }
        }
        let names: Box<dyn Iterator<Item = String>> = match order {
            Order::Ascending => {
                names.sort_unstable();
                Box::new(names.into_iter())
            }
            // Whoever begins at the end wants few of them.
            Order::Descending => {
                let mut names = BinaryHeap::from(names);
                Box::new(std::iter::from_fn(move || names.pop()))
            }
        };
        for name in names {
            let goes_on = if name.ends_with('/') { self.folder(&name, order, found)? } else { found(&name)? };
            if !goes_on {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn may_match(&self, name: &str, is_folder: bool) -> bool {
        if is_folder {
            if name.strip_suffix('/') == Some(OWN) {
                return false;
            }
            let in_prefix = name.starts_with(self.prefix) || self.prefix.starts_with(name);
            in_prefix && (self.after < name || self.after.starts_with(name))
        } else {
            name.starts_with(self.prefix) && name > self.after
        }
    }
}
