//! The embedded store: a local directory, one file per object.
//!
//! A write is a temporary file in `.gravity/tmp`, fsync, rename, fsync of the folder. Conditional writes hold a file
//! lock, so they are atomic between processes too (on one machine, or where the file system has working `flock`).

use super::walk::{Order, Walk};
use super::{ETag, Error, ErrorKind, Key, Meta, Object, PutMode, Result, Store};
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, stream};
use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tempfile::TempDir;
use tokio::task::spawn_blocking;
use tokio_util::io::ReaderStream;

/// Gravity's own folder in the store: locks and temporary files, hidden from [`Store::list`].
pub(super) const OWN: &str = ".gravity";
/// Objects of a listing sent at a time: to wake the receiver for each would take longer than to find it.
const PAGE: usize = 256;
/// Conditional writes to different keys seldom wait for each other with this many locks.
const LOCKS: u8 = 64;
/// Forgetting one costs an fsync, nothing else.
const REMEMBERED_FOLDERS: usize = 10_000;
const READ_BUFFER: usize = 256 << 10;
/// A file up to this size is read while it is opened: each change of threads takes longer than that. What is no file (a
/// pipe, say) may keep its reader waiting for ever.
const READ_AT_ONCE: u64 = 1 << 20;

/// Objects as files below one folder.
pub struct Directory {
    inner: Arc<Inner>,
}

struct Inner {
    root: PathBuf,
    /// False if no folder below the root may be a symbolic link.
    follows_links: bool,
    /// Made at the first write, so that a reader needs no permission to write.
    scratch: std::sync::OnceLock<Scratch>,
    /// Folders whose entry in the folder above is known to be durable.
    durable: Mutex<HashSet<PathBuf>>,
}

/// This process's temporary files. The lock is held as long as the process lives, so whoever can take it knows that
/// the folder was left by one that was killed.
struct Scratch {
    folder: TempDir,
    _alive: File,
}

impl Directory {
    /// A store below `root`, which is made at the first write.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self> {
        Self::open_as(root.into(), true)
    }

    /// The same for keys that strangers chose: nothing is reached through a symbolic link below the root, since
    /// whoever put one there would choose what is written elsewhere. Where the root itself leads is its owner's choice.
    pub fn open_without_links(root: impl Into<PathBuf>) -> Result<Self> {
        Self::open_as(root.into(), false)
    }

    fn open_as(root: PathBuf, follows_links: bool) -> Result<Self> {
        let no_store = |message: &str| Error {
            kind: ErrorKind::NoStore,
            operation: "open",
            target: root.display().to_string(),
            message: message.into(),
        };
        match fs::metadata(&root) {
            Ok(meta) if !meta.is_dir() => Err(no_store("is a file, not a folder")),
            Err(e) if e.kind() == io::ErrorKind::NotADirectory => Err(no_store("leads through a file")),
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io("open", root.display(), &e)),
            _ => Ok(Self {
                inner: Arc::new(Inner {
                    root,
                    follows_links,
                    scratch: std::sync::OnceLock::new(),
                    durable: Mutex::default(),
                }),
            }),
        }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        operation: &'static str,
        key: &Key,
        work: impl FnOnce(&Inner, &Path) -> io::Result<T> + Send + 'static,
    ) -> Result<T> {
        let inner = self.inner.clone();
        let path = self.inner.path(key)?;
        let shown = path.clone();
        spawn_blocking(move || {
            inner.refuse_links(path.parent().unwrap_or(&inner.root))?;
            work(&inner, &path)
        })
        .await
        .unwrap_or_else(|e| Err(io::Error::other(e)))
        .map_err(|e| Error::io(operation, shown.display(), &e))
    }
}

impl Inner {
    fn path(&self, key: &Key) -> Result<PathBuf> {
        // Listed names are not checked when they are made; nothing may lead out of the root.
        let checked = Key::new(key.as_str())?;
        if checked.as_str().split('/').next() == Some(OWN) {
            return Err(Error {
                kind: ErrorKind::BadKey,
                operation: "name",
                target: key.to_string(),
                message: format!("`{OWN}` is the store's own folder"),
            });
        }
        Ok(self.root.join(checked.as_str()))
    }

    fn scratch(&self) -> io::Result<&Path> {
        if let Some(scratch) = self.scratch.get() {
            return Ok(scratch.folder.path());
        }
        let all = self.root.join(OWN).join("tmp");
        self.create_folders(&all)?;
        let scratch = Scratch::new(&all)?;
        Ok(self.scratch.get_or_init(|| scratch).folder.path())
    }

    fn put(&self, path: &Path, body: &[u8], mode: &PutMode) -> io::Result<ETag> {
        let written = self.put_once(path, body, mode);
        let someone_removed_a_folder = matches!(&written, Err(e) if e.kind() == io::ErrorKind::NotFound);
        if !someone_removed_a_folder {
            return written;
        }
        self.durable().clear();
        self.put_once(path, body, mode)
    }

    fn put_once(&self, path: &Path, body: &[u8], mode: &PutMode) -> io::Result<ETag> {
        let folder = path.parent().unwrap_or(&self.root);
        let mut temporary = tempfile::Builder::new().tempfile_in(self.scratch()?)?;
        temporary.write_all(body)?;
        temporary.as_file().sync_data()?;
        self.create_folders(folder)?;
        let _lock = match mode {
            PutMode::Always => None,
            PutMode::IfAbsent | PutMode::IfMatch(_) => Some(self.lock(path)?),
        };
        match mode {
            PutMode::Always => {}
            PutMode::IfAbsent if fs::exists(path)? => return Err(io::ErrorKind::AlreadyExists.into()),
            PutMode::IfAbsent => {}
            PutMode::IfMatch(expected) => match fs::read(path) {
                Ok(found) if etag(&found) == *expected => {}
                Ok(_) => return Err(io::ErrorKind::AlreadyExists.into()),
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(io::ErrorKind::AlreadyExists.into()),
                Err(e) => return Err(e),
            },
        }
        temporary.persist(path).map_err(|e| e.error)?;
        sync_folder(folder)?;
        Ok(etag(body))
    }

    /// Taken by whatever changes an object on a condition, released when dropped.
    fn lock(&self, path: &Path) -> io::Result<File> {
        let folder = self.root.join(OWN).join("locks");
        self.create_folders(&folder)?;
        let shard = blake3::hash(path.as_os_str().as_encoded_bytes()).as_bytes()[0] % LOCKS;
        let lock = File::options().create(true).truncate(false).write(true).open(folder.join(format!("{shard:02}")))?;
        lock.lock()?;
        Ok(lock)
    }

    fn durable(&self) -> MutexGuard<'_, HashSet<PathBuf>> {
        // The set is whole between any two statements that could panic.
        self.durable.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes `folder` and what is missing above it, durably. A folder that is there may have been made by another
    /// process a moment ago, so the folder above it is synced once by every process.
    fn create_folders(&self, folder: &Path) -> io::Result<()> {
        let Some(above) = folder.parent() else { return Ok(()) };
        if folder.as_os_str().is_empty() || self.durable().contains(folder) {
            return Ok(());
        }
        self.refuse_links(folder)?;
        let outside = self.root.starts_with(folder) && folder != self.root;
        if outside && folder.is_dir() {
            return Ok(());
        }
        self.create_folders(above)?;
        match fs::create_dir(folder) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            // A file in the way must not be remembered: it may be taken away.
            Err(_) if !folder.is_dir() => return Err(io::ErrorKind::NotADirectory.into()),
            _ => sync_folder(above)?,
        }
        let mut durable = self.durable();
        if durable.len() >= REMEMBERED_FOLDERS {
            durable.clear();
        }
        durable.insert(folder.to_owned());
        Ok(())
    }

    /// Passes if neither `folder` nor one above it, below the root, is a link that must not be followed.
    fn refuse_links(&self, folder: &Path) -> io::Result<()> {
        if self.follows_links {
            return Ok(());
        }
        let below = |folder: &&Path| folder.starts_with(&self.root) && *folder != self.root;
        match folder.ancestors().take_while(below).find(|folder| folder.is_symlink()) {
            None => Ok(()),
            Some(link) => {
                Err(io::Error::other(format!("{} is a symbolic link, and none is followed here", link.display())))
            }
        }
    }

    /// What a listing says of a file; `None` if it was removed since its folder was read.
    fn listed(&self, name: &str) -> io::Result<Option<Meta>> {
        match fs::metadata(self.root.join(name)) {
            Ok(meta) => Ok(Some(self.meta(&Key::listed(name), &meta))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn meta(&self, key: &Key, meta: &fs::Metadata) -> Meta {
        Meta { key: key.clone(), size: meta.len(), etag: None, modified: meta.modified().ok() }
    }
}

impl Scratch {
    fn new(all: &Path) -> io::Result<Self> {
        remove_abandoned(all);
        let folder = tempfile::Builder::new().prefix("w").tempdir_in(all)?;
        let alive = File::create(folder.path().join("alive"))?;
        alive.lock()?;
        Ok(Self { folder, _alive: alive })
    }
}

/// Removes what killed processes left. Failing to is no reason to fail: the next process tries again.
fn remove_abandoned(all: &Path) {
    /// A folder this young may belong to a process that has yet to take its lock.
    const YOUNG: std::time::Duration = std::time::Duration::from_secs(2);
    for entry in fs::read_dir(all).into_iter().flatten().flatten() {
        let young = entry.metadata().and_then(|m| m.modified()).ok().and_then(|t| t.elapsed().ok());
        if young.is_none_or(|age| age < YOUNG) {
            continue;
        }
        let abandoned = match File::open(entry.path().join("alive")) {
            Ok(alive) => alive.try_lock().is_ok(),
            Err(e) => e.kind() == io::ErrorKind::NotFound,
        };
        if abandoned {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    File::open(folder)?.sync_all()
}

fn etag(body: &[u8]) -> ETag {
    ETag(blake3::hash(body).to_hex().to_string())
}

fn found<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(e) if e.kind == ErrorKind::Other && e.message == NOT_FOUND => Ok(None),
        Err(e) => Err(e),
    }
}

/// Marks "no such object" between the blocking closures and [`found`].
const NOT_FOUND: &str = "\u{0}not found";

fn mark_missing(e: io::Error) -> io::Error {
    match e.kind() {
        // A key whose parent is an object is not there either.
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => io::Error::other(NOT_FOUND),
        _ => e,
    }
}

fn open_object(path: &Path) -> io::Result<(File, fs::Metadata)> {
    let file = File::open(path).map_err(mark_missing)?;
    let meta = file.metadata()?;
    if meta.is_dir() { Err(io::Error::other(NOT_FOUND)) } else { Ok((file, meta)) }
}

fn read_whole(file: &mut File, meta: &fs::Metadata) -> io::Result<Bytes> {
    let mut body = Vec::with_capacity(meta.len() as usize);
    file.read_to_end(&mut body)?;
    Ok(body.into())
}

#[async_trait]
impl Store for Directory {
    fn location(&self) -> String {
        self.inner.root.display().to_string()
    }

    async fn tidy(&self) {
        let all = self.inner.root.join(OWN).join("tmp");
        // It does not panic, and no more than time is lost if it does.
        let _ = spawn_blocking(move || remove_abandoned(&all)).await;
    }

    async fn put(&self, key: &Key, body: Bytes, mode: PutMode) -> Result<Option<ETag>> {
        self.blocking("put", key, move |inner, path| inner.put(path, &body, &mode)).await.map(Some)
    }

    async fn get(&self, key: &Key) -> Result<Option<Object>> {
        let at = key.clone();
        let opened = self.blocking("get", key, move |inner, path| {
            let (mut file, meta) = open_object(path)?;
            let is_small = meta.is_file() && meta.len() <= READ_AT_ONCE;
            let read = is_small.then(|| read_whole(&mut file, &meta)).transpose()?;
            Ok((inner.meta(&at, &meta), read, file))
        });
        let shown = self.inner.path(key)?;
        Ok(found(opened.await)?.map(|(meta, read, file)| {
            let body = match read {
                Some(read) => stream::iter((!read.is_empty()).then_some(Ok(read))).boxed(),
                None => ReaderStream::with_capacity(tokio::fs::File::from_std(file), READ_BUFFER)
                    .map_err(move |e| Error::io("get", shown.display(), &e))
                    .boxed(),
            };
            Object { meta, body, crc32: None }
        }))
    }

    async fn read(&self, key: &Key) -> Result<Option<(Bytes, Option<ETag>)>> {
        let read = self.blocking("get", key, |_, path| {
            let (mut file, meta) = open_object(path)?;
            let body = read_whole(&mut file, &meta)?;
            let etag = etag(&body);
            Ok((body, Some(etag)))
        });
        found(read.await)
    }

    async fn get_range(&self, key: &Key, range: std::ops::Range<u64>) -> Result<Option<Bytes>> {
        let read = self.blocking("get", key, move |_, path| {
            let (mut file, meta) = open_object(path)?;
            let end = range.end.min(meta.len());
            let start = range.start.min(end);
            file.seek(SeekFrom::Start(start))?;
            let mut body = Vec::with_capacity((end - start) as usize);
            file.take(end - start).read_to_end(&mut body)?;
            Ok(Bytes::from(body))
        });
        found(read.await)
    }

    async fn head(&self, key: &Key) -> Result<Option<Meta>> {
        let at = key.clone();
        let looked = self.blocking("head", key, move |inner, path| {
            let meta = fs::metadata(path).map_err(mark_missing)?;
            if meta.is_dir() { Err(io::Error::other(NOT_FOUND)) } else { Ok(inner.meta(&at, &meta)) }
        });
        found(looked.await)
    }

    fn list(&self, prefix: &str, start_after: Option<&str>) -> BoxStream<'static, Result<Meta>> {
        let (sender, receiver) = tokio::sync::mpsc::channel(2);
        let inner = self.inner.clone();
        let (prefix, after) = (prefix.to_owned(), start_after.unwrap_or("").to_owned());
        spawn_blocking(move || {
            let walk = Walk { root: &inner.root, prefix: &prefix, after: &after };
            let mut page = Vec::with_capacity(PAGE);
            let walked = walk.folder("", Order::Ascending, &mut |name| {
                page.extend(inner.listed(name)?);
                // A receiver that is gone wants no more.
                Ok(page.len() < PAGE || sender.blocking_send(Ok(std::mem::take(&mut page))).is_ok())
            });
            let walked = walked.map_err(|e| Error::io("list", inner.root.join(&prefix).display(), &e));
            // Nor does it want the rest, or the error.
            let _ = sender.blocking_send(Ok(page));
            if let Err(e) = walked {
                let _ = sender.blocking_send(Err(e));
            }
        });
        let pages = tokio_stream::wrappers::ReceiverStream::new(receiver);
        pages.map_ok(|page| stream::iter(page.into_iter().map(Ok))).try_flatten().boxed()
    }

    async fn list_last(&self, prefix: &str, start_after: Option<&str>, count: usize) -> Result<Vec<Meta>> {
        let inner = self.inner.clone();
        let (prefix, after) = (prefix.to_owned(), start_after.unwrap_or("").to_owned());
        let walked = spawn_blocking(move || {
            let walk = Walk { root: &inner.root, prefix: &prefix, after: &after };
            let mut last = Vec::new();
            let walked = walk.folder("", Order::Descending, &mut |name| {
                if last.len() < count {
                    last.extend(inner.listed(name)?);
                }
                Ok(last.len() < count)
            });
            last.reverse();
            walked.map(|_| last).map_err(|e| Error::io("list", inner.root.join(&prefix).display(), &e))
        });
        walked.await.map_err(|e| Error::io("list", self.inner.root.display(), &io::Error::other(e)))?
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        let removed = self.blocking("delete", key, |inner, path| {
            fs::metadata(path).map_err(mark_missing)?;
            let _lock = inner.lock(path)?;
            fs::remove_file(path).map_err(mark_missing)?;
            sync_folder(path.parent().unwrap_or(&inner.root))
        });
        found(removed.await).map(|_| ())
    }
}
