//! The files of nodes: which are there, what they lead to, and whom nobody leads to.

use super::{Verifier, of_this_object};
use crate::error::{Error, Result};
use crate::packed::NODES;
use crate::packed::file::File;
use crate::packed::format::{PACKS_KEY, REPLACES_KEY, read_nodes};
use crate::packed::listing::{PackName, pack_name};
use crate::packed::packer::nodes_key;
use crate::packed::reader::Reader;
use crate::packed::table::PackNumber;
use crate::stages::blocking;
use crate::store::{Key, Meta};
use crate::verify::Level;
use futures::{StreamExt, TryStreamExt};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Requests at a time.
const AT_ONCE: usize = 32;

/// The packs of a store, and the files that have them.
#[derive(Default)]
pub(super) struct Packs {
    /// Of each pack, the file that it is in.
    files: BTreeMap<u64, Key>,
    /// Of each file, the packs that its references lead to; none for one that could not be read.
    lead_to: HashMap<Key, Option<Vec<u64>>>,
    /// Those that were missed, and told.
    missing: BTreeSet<u64>,
}

impl Verifier<'_> {
    /// Lists the files of nodes, and reads the metadata of each.
    pub(super) async fn list_packs(&mut self) -> Result<()> {
        let reader = self.reader.clone();
        let listed = self.store.list(&format!("{NODES}/"), None).map_err(Error::from);
        let mut opened = listed
            .map_ok(move |meta: Meta| {
                let reader = reader.clone();
                async move {
                    let lists = match pack_name(&meta.key) {
                        None => Ok(None),
                        Some(_) => lists_of(&reader, &meta).await,
                    };
                    Ok((meta.key, of_this_object(lists)?))
                }
            })
            .try_buffered(AT_ONCE)
            .boxed();
        let mut replaced = Vec::new();
        while let Some((key, lists)) = opened.try_next().await? {
            self.report.looked_at(1);
            let Some(name) = pack_name(&key) else {
                self.report.unknown(key);
                continue;
            };
            self.summary.node_files += 1;
            let lists = match lists {
                Ok(Some(lists)) => Some(lists),
                // Gone since it was listed.
                Ok(None) => continue,
                Err(reason) => {
                    self.report.tell(Level::Error, "corrupt-nodes", &key, reason);
                    None
                }
            };
            match (name, lists) {
                (PackName::One(pack), lists) => {
                    self.packs.files.insert(pack, key.clone());
                    self.packs.lead_to.insert(key, lists.map(|lists| lists.packs));
                }
                (PackName::Compacted, None) => {}
                (PackName::Compacted, Some(lists)) => {
                    replaced.push((key.clone(), lists.replaces));
                    self.packs.lead_to.insert(key, Some(lists.packs));
                }
            }
        }
        for (key, names) in replaced {
            for name in names {
                let name = Key::listed(name);
                let Some(PackName::One(pack)) = pack_name(&name) else { continue };
                if self.packs.files.insert(pack, key.clone()).is_some_and(|before| before == name) {
                    let why =
                        format!("{key} stands for it since it was compacted; `gravity gc` removes it once it is old");
                    self.report.tell(Level::Info, "replaced", name, why);
                }
            }
        }
        Ok(())
    }

    /// Tells of a pack that is not there, once.
    pub(super) fn pack(&mut self, pack: u64, by: &Key) {
        if !self.packs.files.contains_key(&pack) && self.packs.missing.insert(pack) {
            let why = format!("{by} names it and it is not there");
            self.report.tell(Level::Error, "missing-nodes", nodes_key(PackNumber(pack)), why);
        }
    }

    /// These packs and all that their references lead to; what is missing is told.
    pub(super) fn reach(&mut self, wanted: BTreeSet<u64>) -> BTreeSet<u64> {
        let (mut reached, mut next) = (BTreeSet::new(), wanted);
        while let Some(pack) = next.pop_first() {
            if !reached.insert(pack) {
                continue;
            }
            let Some(key) = self.packs.files.get(&pack).cloned() else { continue };
            for below in self.packs.lead_to.get(&key).cloned().flatten().unwrap_or_default() {
                if !reached.contains(&below) {
                    self.pack(below, &key);
                    next.insert(below);
                }
            }
        }
        reached
    }

    pub(super) fn files_of(&self, packs: &BTreeSet<u64>) -> BTreeSet<Key> {
        packs.iter().filter_map(|pack| self.packs.files.get(pack)).cloned().collect()
    }

    /// A file of nodes: that all of it can be read, and leads only where its metadata says.
    pub(super) async fn nodes_file(&mut self, key: &Key) -> Result<()> {
        // Its metadata could not be read, which was told.
        let Some(Some(packs)) = self.packs.lead_to.get(key) else { return Ok(()) };
        let own = self.packs.files.iter().filter(|(_, file)| *file == key).map(|(&pack, _)| pack);
        let mut named: BTreeSet<u64> = packs.iter().copied().chain(own).collect();
        let file = match of_this_object(self.reader.open(key).await)? {
            Ok(Some(file)) => file,
            Ok(None) => return Ok(()),
            Err(reason) => {
                self.report.tell(Level::Error, "corrupt-nodes", key, reason);
                return Ok(());
            }
        };
        self.summary.node_files_read += 1;
        for number in 0..file.metadata.num_row_groups() {
            let refs = match of_this_object(packs_of_group(&self.reader, &file, number).await)? {
                Ok(refs) => refs,
                Err(reason) => {
                    self.report.tell(Level::Error, "corrupt-nodes", key, format!("row group {number}: {reason}"));
                    continue;
                }
            };
            for pack in refs {
                if named.insert(pack) {
                    let pack = nodes_key(PackNumber(pack));
                    let why = format!("its nodes name {pack} and its metadata does not; `gravity gc` could remove it");
                    self.report.tell(Level::Error, "unnamed-pack", key, why);
                }
            }
        }
        self.report.looked_at(1);
        Ok(())
    }

    /// Tells of the packs that no batch leads to.
    pub(super) fn orphans(&mut self, reached: &BTreeSet<u64>) {
        let used = self.files_of(reached);
        let mut unused: Vec<Key> = self.packs.lead_to.keys().filter(|key| !used.contains(key)).cloned().collect();
        // A file that another one stands for was told.
        unused.retain(|key| match pack_name(key) {
            Some(PackName::One(pack)) => self.packs.files.get(&pack) == Some(key),
            _ => true,
        });
        unused.sort_unstable();
        for key in unused {
            let why = "no batch leads to it: a flush in work, or one that a crash ended; `gravity gc` removes it once it is old";
            self.report.tell(Level::Info, "orphan-nodes", key, why);
        }
    }
}

/// The packs that the nodes of a row group lead to.
async fn packs_of_group(reader: &Reader, file: &File, group: usize) -> Result<BTreeSet<u64>> {
    let group = reader.group(file, group).await?;
    let packs = blocking(move || {
        let nodes = read_nodes(&group)?;
        let refs = nodes.iter().flat_map(|(_, node)| node.refs.iter());
        Ok::<_, String>(refs.map(|&id| PackNumber::of_node(id as u64).0).collect())
    });
    packs.await?.map_err(|reason| file.corrupt(reason))
}

/// What the metadata of a file of nodes names.
struct Lists {
    packs: Vec<u64>,
    replaces: Vec<String>,
}

async fn lists_of(reader: &Reader, meta: &Meta) -> Result<Option<Lists>> {
    let Some(file) = reader.open_metadata(meta).await? else { return Ok(None) };
    Ok(Some(Lists { packs: file.list(PACKS_KEY)?, replaces: file.list(REPLACES_KEY)? }))
}
