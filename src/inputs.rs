//! What `ingest` is given: files, folders, objects, standard input.

use crate::config::StoreArgs;
use crate::exit::Failure;
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use gravity_pipeline::Error;
use gravity_pipeline::store::{Key, Store};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::io::ReaderStream;
use tokio_util::sync::CancellationToken;

const READ_BUFFER: usize = 256 << 10;
/// A pipe that is silent for so long after we were asked to end has nothing on its way.
const SILENCE: Duration = Duration::from_secs(1);

/// One raw file to come.
#[derive(Clone)]
pub struct Input {
    /// Its key, unless it comes on standard input.
    pub key: Option<String>,
    /// Its size, where it is known.
    pub size: Option<u64>,
    /// Where to read it.
    pub source: Source,
}

/// Where a raw file is.
#[derive(Clone)]
pub enum Source {
    /// Standard input.
    Stdin,
    /// A local file.
    File(PathBuf),
    /// An object of a store.
    Object(Arc<dyn Store>, Key),
}

impl Input {
    /// Its bytes. A pipe may be silent for ever: after `stop` it has a moment for what is on its way, then it ends with
    /// an error, since what has come is not all.
    pub async fn open(&self, stop: &CancellationToken) -> Result<BoxStream<'static, Result<Bytes, Error>>, Error> {
        let bytes = self.bytes().await?;
        if self.size.is_some() {
            return Ok(bytes);
        }
        let what = self.key.clone().unwrap_or_else(|| "standard input".into());
        let interrupted = move || Error::Io { what: what.clone(), source: std::io::ErrorKind::Interrupted.into() };
        let until_stopped =
            stream::unfold((bytes, stop.clone(), interrupted), |(mut bytes, stop, interrupted)| async move {
                let silence = async {
                    stop.cancelled().await;
                    tokio::time::sleep(SILENCE).await;
                };
                tokio::select! {
                    piece = bytes.next() => Some((piece?, (bytes, stop, interrupted))),
                    () = silence => Some((Err(interrupted()), (stream::empty().boxed(), stop, interrupted))),
                }
            });
        // Who reads a short beginning asks again at the end.
        Ok(until_stopped.fuse().boxed())
    }

    async fn bytes(&self) -> Result<BoxStream<'static, Result<Bytes, Error>>, Error> {
        let io = |what: String| move |source| Error::Io { what: what.clone(), source };
        Ok(match &self.source {
            Source::Stdin => ReaderStream::with_capacity(tokio::io::stdin(), READ_BUFFER)
                .map_err(io("standard input".into()))
                .boxed(),
            Source::File(path) => {
                let what = path.display().to_string();
                let file = tokio::fs::File::open(path).await.map_err(io(what.clone()))?;
                ReaderStream::with_capacity(file, READ_BUFFER).map_err(io(what)).boxed()
            }
            Source::Object(store, key) => {
                let object = store.get(key).await?.ok_or_else(|| Error::NotFound(format!("{key}: no such object")))?;
                object.body.map_err(Error::from).boxed()
            }
        })
    }
}

/// Everything that the arguments name, and the total size if all of it is known beforehand.
pub async fn find(
    arguments: &[String],
    stdin_key: Option<String>,
    store: &StoreArgs,
) -> Result<(BoxStream<'static, Result<Input, Error>>, Option<u64>), Failure> {
    let stdin = [String::from("-")];
    let arguments = if arguments.is_empty() { &stdin } else { arguments };
    if arguments.iter().filter(|a| *a == "-").count() > 1 {
        return Err(Failure::Usage("- (standard input) can be given once".into()));
    }
    if stdin_key.is_some() && !arguments.iter().any(|a| a == "-") {
        return Err(Failure::Usage("--key names what comes on standard input, and no - was given".into()));
    }
    let mut total = Some(0);
    let mut found = Vec::new();
    for argument in arguments {
        if argument == "-" {
            total = None;
            let input = Input { key: stdin_key.clone(), size: None, source: Source::Stdin };
            found.push(stream::iter([Ok(input)]).boxed());
        } else if let Some(rest) = argument.strip_prefix("s3://") {
            total = None;
            found.push(objects(argument, rest, store).await?);
        } else {
            let files = files(Path::new(argument));
            let size: u64 = files.iter().flatten().filter_map(|file| file.size).sum();
            total = total.map(|total| total + size);
            found.push(stream::iter(files).boxed());
        }
    }
    Ok((stream::iter(found).flatten().boxed(), total))
}

/// `bucket/key` names one object, `bucket/prefix/` all below. An object's key is its key in the bucket.
async fn objects(url: &str, rest: &str, args: &StoreArgs) -> Result<BoxStream<'static, Result<Input, Error>>, Failure> {
    let (bucket, name) = rest.split_once('/').unwrap_or((rest, ""));
    let store = args.open_at(&format!("s3://{bucket}"), Arc::new(())).await?.store;
    let input = |store: Arc<dyn Store>, key: Key, size| {
        Ok(Input { key: Some(key.to_string()), size: Some(size), source: Source::Object(store, key) })
    };
    if name.is_empty() || name.ends_with('/') {
        let listed = store.list(name, None);
        return Ok(listed
            .map(move |meta| meta.map_err(Error::from).and_then(|meta| input(store.clone(), meta.key, meta.size)))
            .boxed());
    }
    let key = Key::new(name).map_err(|e| Failure::Usage(e.to_string()))?;
    match store.head(&key).await? {
        Some(meta) => Ok(stream::iter([input(store, key, meta.size)]).boxed()),
        None => Err(Failure::Failed(format!("{url}: no such object; for all below a prefix let it end in /"))),
    }
}

/// A file, or the files below a folder in order; what cannot be read is an error in its place. Hidden files and
/// folders inside a folder are passed over.
fn files(path: &Path) -> Vec<Result<Input, Error>> {
    let io = |source| Error::Io { what: path.display().to_string(), source };
    let meta = match fs::metadata(path) {
        Ok(meta) => meta,
        Err(e) => return vec![Err(io(e))],
    };
    if !meta.is_dir() {
        let Some(key) = path.to_str() else {
            let source = std::io::Error::other("the name is not UTF-8; pipe it in with --key NAME");
            return vec![Err(io(source))];
        };
        let size = meta.is_file().then_some(meta.len());
        return vec![Ok(Input { key: Some(key.to_owned()), size, source: Source::File(path.to_owned()) })];
    }
    let entries = fs::read_dir(path).and_then(|entries| entries.collect::<Result<Vec<_>, _>>());
    match entries {
        Err(e) => vec![Err(io(e))],
        Ok(mut entries) => {
            entries.retain(|entry| !entry.file_name().as_encoded_bytes().starts_with(b"."));
            entries.sort_unstable_by_key(fs::DirEntry::file_name);
            entries.iter().flat_map(|entry| files(&entry.path())).collect()
        }
    }
}
