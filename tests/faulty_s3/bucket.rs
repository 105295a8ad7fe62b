//! An S3 bucket in memory: what Gravity asks of one, with conditional writes, checksums and listings that lag.

use crate::common::Dice;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::StreamExt;
use s3s::dto::{
    DeleteObjectInput, DeleteObjectOutput, GetObjectInput, GetObjectOutput, HeadObjectInput, HeadObjectOutput,
    ListObjectsV2Input, ListObjectsV2Output, Object, PutObjectInput, PutObjectOutput, Range, StreamingBlob,
};
use s3s::{S3, S3Error, S3ErrorCode, S3Request, S3Response, S3Result};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

/// The one bucket there is.
pub const BUCKET: &str = "gravity-faults";

/// How an object was written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Written {
    pub encryption: Option<String>,
    pub kms_key: Option<String>,
    pub storage_class: Option<String>,
    /// True if the client sent a checksum, which the server found to be right.
    pub checked: bool,
}

#[derive(Clone)]
struct Stored {
    bytes: Vec<u8>,
    modified: SystemTime,
    written: Written,
    /// Listings do not have it before.
    listed_from: Instant,
}

impl Stored {
    fn etag(&self) -> String {
        format!("\"{}\"", &blake3::hash(&self.bytes).to_hex()[..32])
    }

    fn crc32(&self) -> String {
        STANDARD.encode(crc32fast::hash(&self.bytes).to_be_bytes())
    }
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Stored>,
    /// How long a listing may lag behind, at most.
    lag: Option<(Duration, Dice)>,
    denies_writes: bool,
}

#[derive(Clone, Default)]
pub struct Bucket(Arc<Mutex<State>>);

impl Bucket {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub fn put(&self, key: &str, bytes: Vec<u8>) {
        let stored =
            Stored { bytes, modified: SystemTime::now(), written: Written::default(), listed_from: Instant::now() };
        self.state().objects.insert(key.to_owned(), stored);
    }

    pub fn objects(&self) -> BTreeMap<String, Vec<u8>> {
        self.state().objects.iter().map(|(key, object)| (key.clone(), object.bytes.clone())).collect()
    }

    pub fn written(&self, key: &str) -> Written {
        self.state().objects[key].written.clone()
    }

    /// From now on a listing may not have what was written in the last moments.
    pub fn lag(&self, most: Duration, seed: u64) {
        self.state().lag = Some((most, Dice::new(seed)));
    }

    pub fn deny_writes(&self, denied: bool) {
        self.state().denies_writes = denied;
    }

    fn of(&self, bucket: &str) -> S3Result<MutexGuard<'_, State>> {
        match bucket {
            BUCKET => Ok(self.state()),
            _ => Err(S3Error::new(S3ErrorCode::NoSuchBucket)),
        }
    }
}

fn get<'a>(state: &'a State, key: &str, if_match: Option<&String>) -> S3Result<&'a Stored> {
    let object = state.objects.get(key).ok_or_else(|| S3Error::new(S3ErrorCode::NoSuchKey))?;
    match if_match {
        Some(etag) if *etag != object.etag() => Err(S3Error::new(S3ErrorCode::PreconditionFailed)),
        _ => Ok(object),
    }
}

#[async_trait::async_trait]
impl S3 for Bucket {
    async fn put_object(&self, req: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        let input = req.input;
        let mut bytes = Vec::new();
        let mut body = input.body.ok_or_else(|| S3Error::new(S3ErrorCode::IncompleteBody))?;
        while let Some(piece) = body.next().await {
            bytes.extend_from_slice(&piece.map_err(|_| S3Error::new(S3ErrorCode::IncompleteBody))?);
        }
        let mut state = self.of(&input.bucket)?;
        if state.denies_writes {
            return Err(S3Error::new(S3ErrorCode::AccessDenied));
        }
        let there = state.objects.get(&input.key);
        match (&input.if_match, &input.if_none_match) {
            (Some(_), _) if there.is_none() => return Err(S3Error::new(S3ErrorCode::NoSuchKey)),
            (Some(etag), _) if there.is_some_and(|there| there.etag() != *etag) => {
                return Err(S3Error::new(S3ErrorCode::PreconditionFailed));
            }
            (_, Some(_)) if there.is_some() => return Err(S3Error::new(S3ErrorCode::PreconditionFailed)),
            _ => {}
        }
        let lag = state.lag.as_mut().map_or(0, |(most, dice)| dice.roll(most.as_millis() as u64 + 1));
        let listed_from = there_or(&state, &input.key).unwrap_or_else(|| Instant::now() + Duration::from_millis(lag));
        let written = Written {
            encryption: input.server_side_encryption.map(|sse| sse.as_str().to_owned()),
            kms_key: input.ssekms_key_id,
            storage_class: input.storage_class.map(|class| class.as_str().to_owned()),
            checked: input.checksum_crc32.is_some(),
        };
        let stored = Stored { bytes, modified: SystemTime::now(), written, listed_from };
        if input.checksum_crc32.is_some_and(|sent| sent != stored.crc32()) {
            return Err(S3Error::new(S3ErrorCode::BadDigest));
        }
        let output = PutObjectOutput { e_tag: Some(stored.etag()), ..Default::default() };
        state.objects.insert(input.key, stored);
        Ok(S3Response::new(output))
    }

    async fn get_object(&self, req: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        let state = self.of(&req.input.bucket)?;
        let object = get(&state, &req.input.key, req.input.if_match.as_ref())?;
        let size = object.bytes.len() as u64;
        let range = match req.input.range {
            None => 0..size,
            Some(Range::Int { first, .. }) if first >= size => {
                return Err(S3Error::new(S3ErrorCode::InvalidRange));
            }
            Some(Range::Int { first, last }) => first..last.map_or(size, |last| (last + 1).min(size)),
            Some(Range::Suffix { length }) => size.saturating_sub(length)..size,
        };
        let bytes = object.bytes[range.start as usize..range.end as usize].to_vec();
        let partial = req.input.range.is_some();
        let body = futures::stream::iter([Ok::<_, std::io::Error>(bytes.into())]);
        Ok(S3Response::new(GetObjectOutput {
            body: Some(StreamingBlob::wrap(body)),
            content_length: Some((range.end - range.start) as i64),
            content_range: partial.then(|| format!("bytes {}-{}/{size}", range.start, range.end - 1)),
            checksum_crc32: (!partial).then(|| object.crc32()),
            e_tag: Some(object.etag()),
            last_modified: Some(object.modified.into()),
            ..Default::default()
        }))
    }

    async fn head_object(&self, req: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
        let state = self.of(&req.input.bucket)?;
        let object = get(&state, &req.input.key, None)?;
        Ok(S3Response::new(HeadObjectOutput {
            content_length: Some(object.bytes.len() as i64),
            e_tag: Some(object.etag()),
            last_modified: Some(object.modified.into()),
            ..Default::default()
        }))
    }

    async fn list_objects_v2(&self, req: S3Request<ListObjectsV2Input>) -> S3Result<S3Response<ListObjectsV2Output>> {
        let state = self.of(&req.input.bucket)?;
        let prefix = req.input.prefix.unwrap_or_default();
        let after = req.input.continuation_token.or(req.input.start_after).unwrap_or_default();
        let now = Instant::now();
        let matching = state
            .objects
            .iter()
            .filter(|(key, object)| key.starts_with(&prefix) && **key > after && object.listed_from <= now);
        let mut page: Vec<_> = matching
            .take(1001)
            .map(|(key, object)| Object {
                key: Some(key.clone()),
                size: Some(object.bytes.len() as i64),
                e_tag: Some(object.etag()),
                last_modified: Some(object.modified.into()),
                ..Default::default()
            })
            .collect();
        let is_truncated = page.len() > 1000;
        page.truncate(1000);
        let next = page.last().and_then(|last| last.key.clone()).filter(|_| is_truncated);
        Ok(S3Response::new(ListObjectsV2Output {
            key_count: Some(page.len() as i32),
            contents: Some(page),
            is_truncated: Some(is_truncated),
            next_continuation_token: next,
            ..Default::default()
        }))
    }

    async fn delete_object(&self, req: S3Request<DeleteObjectInput>) -> S3Result<S3Response<DeleteObjectOutput>> {
        self.of(&req.input.bucket)?.objects.remove(&req.input.key);
        Ok(S3Response::new(DeleteObjectOutput::default()))
    }
}

/// When listings have an object that is replaced: they had it before.
fn there_or(state: &State, key: &str) -> Option<Instant> {
    state.objects.get(key).map(|object| object.listed_from)
}
