//! Flags and environment variables, resolved once into what the pipeline takes.

use crate::exit::Failure;
use crate::s3_args::S3Args;
use clap::Args;
use gravity_pipeline::decompress;
use gravity_pipeline::keys::ContentKeys;
use gravity_pipeline::loose::{LEDGER, Layout, Paths, QUARANTINE};
use gravity_pipeline::observe::Observer;
use gravity_pipeline::otlp::FrameLimits;
use gravity_pipeline::packed::packer::FlushSettings;
use gravity_pipeline::packed::{NODES, SPANS};
use gravity_pipeline::pipeline::Settings;
use gravity_pipeline::queue::event::Watched;
use gravity_pipeline::queue::{IntakeSettings, QueueSettings};
use gravity_pipeline::retry;
use gravity_pipeline::split::Separator;
use gravity_pipeline::store::{Directory, Discard, Key, Metered, Requests, Retrying, S3, S3Settings, Store};
use gravity_pipeline::verify::Share;
use std::sync::Arc;
use std::time::Duration;

/// Where the store is and how it is laid out.
#[derive(Debug, Args)]
#[command(next_help_heading = "Store")]
pub struct StoreArgs {
    /// s3://bucket/prefix, or a folder [default: s3://$S3_BUCKET if that is set, else ./gravity-data].
    #[arg(long, env = "GRAVITY_STORE", value_name = "URL|DIR")]
    pub store: Option<String>,
    /// The bucket, where --store is not given.
    #[arg(long, env = "S3_BUCKET", value_name = "NAME")]
    pub s3_bucket: Option<String>,
    /// The bucket's region [default: AWS_REGION or the profile's].
    #[arg(long, env = "S3_REGION", value_name = "REGION", value_parser = parse::region)]
    pub s3_region: Option<String>,
    /// Another S3 server than AWS.
    #[arg(long, env = "AWS_ENDPOINT_URL", value_name = "URL", value_parser = parse::endpoint("AWS_ENDPOINT_URL"))]
    pub endpoint_url: Option<String>,
    /// Folder of the raw batches.
    #[arg(long, env = "RAW_SPANS_PATH", value_name = "PATH", default_value = "raw-spans", value_parser = parse::folder("RAW_SPANS_PATH"))]
    pub raw_spans_path: String,
    /// Folder of the chunks.
    #[arg(long, env = "BLOBS_PATH", value_name = "PATH", default_value = "blobs", value_parser = parse::folder("BLOBS_PATH"))]
    pub blobs_path: String,
    /// Folder of the traces.
    #[arg(long, env = "INDEXES_PATH", value_name = "PATH", default_value = "indexes", value_parser = parse::folder("INDEXES_PATH"))]
    pub indexes_path: String,
    /// Requests to the store at a time.
    #[arg(long, env = "MAX_REQUESTS", value_name = "N", default_value = "64", value_parser = parse::count("MAX_REQUESTS"))]
    pub max_requests: usize,
    /// How a bucket is used.
    #[command(flatten)]
    pub s3: S3Args,
}

/// What is content, and what it is cut at.
#[derive(Debug, Args)]
#[command(next_help_heading = "Content")]
pub struct ContentArgs {
    /// What parts are cut at; \n, \r, \t, \0 and \\ stand for the characters. A store keeps its separator.
    #[arg(long, env = "CHUNK_SEPARATOR", value_name = "TEXT", default_value = r"\n", value_parser = parse::separator)]
    pub chunk_separator: Separator,
    /// More attribute keys that are content, as patterns like those that `gravity keys` shows.
    #[arg(long, env = "CONTENT_KEYS", value_name = "PATTERN,...", value_delimiter = ',')]
    pub content_keys: Vec<String>,
    /// Keys that are not content after all.
    #[arg(long, env = "EXCLUDE_KEYS", value_name = "PATTERN,...", value_delimiter = ',')]
    pub exclude_keys: Vec<String>,
}

/// How much a batch may need.
#[derive(Debug, Args)]
#[command(next_help_heading = "Limits")]
pub struct LimitArgs {
    /// Largest span, log record or other single value; memory for a few of them is needed.
    #[arg(long, env = "MAX_SPAN_BYTES", value_name = "SIZE", default_value = "64MiB", value_parser = parse::size("MAX_SPAN_BYTES"))]
    pub max_span_bytes: u64,
    /// Largest batch after decompression.
    #[arg(long, env = "MAX_BATCH_BYTES", value_name = "SIZE", default_value = "16GiB", value_parser = parse::size("MAX_BATCH_BYTES"))]
    pub max_batch_bytes: u64,
    /// Most bytes after decompression for each byte before, beyond 64 MiB.
    #[arg(long, env = "MAX_RATIO", value_name = "N", default_value = "500", value_parser = parse::count("MAX_RATIO"))]
    pub max_ratio: usize,
    /// Largest index of one trace.
    #[arg(long, env = "MAX_INDEX_BYTES", value_name = "SIZE", default_value = "32MiB", value_parser = parse::size("MAX_INDEX_BYTES"))]
    pub max_index_bytes: u64,
    /// Memory for the names of chunks known to be stored.
    #[arg(long, env = "KNOWN_CHUNKS_BYTES", value_name = "SIZE", default_value = "16MiB", value_parser = parse::size("KNOWN_CHUNKS_BYTES"))]
    pub known_chunks_bytes: u64,
}

/// What the commands that write are told.
#[derive(Debug, Args)]
pub struct PipelineArgs {
    /// Batches processed at a time.
    #[arg(long, env = "MAX_CONCURRENT", value_name = "N", default_value = "4", value_parser = parse::count("MAX_CONCURRENT"))]
    pub max_concurrent: usize,
    /// Which store.
    #[command(flatten)]
    pub store: StoreArgs,
    /// What is content.
    #[command(flatten)]
    pub content: ContentArgs,
    /// How much is allowed.
    #[command(flatten)]
    pub limits: LimitArgs,
    /// The packed layout.
    #[command(flatten)]
    pub packed: PackedArgs,
}

/// The layout, and what only the packed one has.
#[derive(Debug, Args)]
#[command(next_help_heading = "Layout")]
pub struct PackedArgs {
    /// How a new store keeps traces; a store keeps its layout [default: the store's own, loose for a new one].
    #[arg(long, env = "GRAVITY_LAYOUT", value_name = "loose|packed", value_parser = parse::layout)]
    pub layout: Option<Layout>,
    /// Packed: batches in a flush, in bytes after decompression.
    #[arg(long, env = "FLUSH_BYTES", value_name = "SIZE", default_value = "256MiB", value_parser = parse::size("FLUSH_BYTES"))]
    pub flush_bytes: u64,
    /// Packed: how long a worker's first batch of a flush waits for others; more batches a flush cost fewer requests.
    #[arg(long, env = "FLUSH_INTERVAL", value_name = "TIME", default_value = "10s", value_parser = parse::duration("FLUSH_INTERVAL"))]
    pub flush_interval: Duration,
    /// Packed: memory for what is known to be stored; what it forgets is stored once more, until it is compacted.
    #[arg(long, env = "DEDUP_BYTES", value_name = "SIZE", default_value = "64MiB", value_parser = parse::size("DEDUP_BYTES"))]
    pub dedup_bytes: u64,
}

/// Prices in US dollars; the defaults are S3 Standard's in us-east-1.
#[derive(Debug, Args)]
#[command(next_help_heading = "Prices (US dollars)")]
pub struct PriceArgs {
    /// 1,000 PUT or LIST requests.
    #[arg(long, env = "PRICE_PUT_1000", value_name = "USD", default_value = "0.005", value_parser = parse::price("PRICE_PUT_1000"))]
    pub price_put_1000: f64,
    /// 1,000 GET or HEAD requests.
    #[arg(long, env = "PRICE_GET_1000", value_name = "USD", default_value = "0.0004", value_parser = parse::price("PRICE_GET_1000"))]
    pub price_get_1000: f64,
    /// A GB (10^9 bytes) for a month.
    #[arg(long, env = "PRICE_GB_MONTH", value_name = "USD", default_value = "0.023", value_parser = parse::price("PRICE_GB_MONTH"))]
    pub price_gb_month: f64,
}

/// A store, ready for use.
pub struct OpenStore {
    /// Retried and counted.
    pub store: Arc<dyn Store>,
    /// The same, counted but not retried: for whoever wants to know how the store is now.
    pub untried: Arc<dyn Store>,
    /// The requests it has had so far.
    pub requests: Box<dyn Fn() -> Requests + Send + Sync>,
}

/// Where events come from.
#[derive(Debug, Args)]
#[command(next_help_heading = "Queue")]
pub struct QueueArgs {
    /// Take S3's events from this SQS queue instead of polling.
    #[arg(long, env = "SQS_QUEUE_URL", value_name = "URL", value_parser = parse::queue)]
    pub queue: Option<String>,
    /// Another address of the queue's server than the one in its URL.
    #[arg(long, env = "AWS_ENDPOINT_URL_SQS", value_name = "URL", value_parser = parse::endpoint("AWS_ENDPOINT_URL_SQS"))]
    pub queue_endpoint_url: Option<String>,
    /// A message received more often than this goes to quarantine.
    #[arg(long, env = "SQS_MAX_RECEIVES", value_name = "N", default_value = "5", value_parser = parse::count("SQS_MAX_RECEIVES"))]
    pub max_receives: usize,
    /// How long others wait for a worker that has died with messages in hand; one that lives renews it.
    #[arg(long, env = "SQS_VISIBILITY_TIMEOUT", value_name = "TIME", default_value = "60s", value_parser = parse::visibility)]
    pub visibility_timeout: Duration,
    /// With a queue, pause between two full passes, which find what no event told of.
    #[arg(long, env = "RECONCILE_INTERVAL", value_name = "TIME", default_value = "1h", value_parser = parse::pause("RECONCILE_INTERVAL"))]
    pub reconcile_interval: Duration,
}

impl QueueArgs {
    /// Where the queue is and what to make of its messages; `None` without a queue.
    ///
    /// # Errors
    /// If the store is none that has events.
    pub fn settings(&self, args: &PipelineArgs) -> Result<Option<(QueueSettings, IntakeSettings)>, Failure> {
        let Some(url) = &self.queue else { return Ok(None) };
        let location = args.store.location();
        let Some((bucket, prefix)) = bucket_and_prefix(&location) else {
            let needs = "a queue tells of objects in a bucket: --store must be s3://bucket";
            return Err(Failure::Usage(format!("--queue {url} (SQS_QUEUE_URL): {needs}, not {location:?}")));
        };
        let queue = QueueSettings {
            url: url.clone(),
            endpoint: self.queue_endpoint_url.clone(),
            region: args.store.s3_region.clone(),
            visibility: self.visibility_timeout,
        };
        let raw_spans = args.store.raw_spans_path.clone();
        let intake = IntakeSettings {
            watched: Watched { bucket: bucket.into(), prefix: prefix.into(), raw_spans },
            max_receives: u32::try_from(self.max_receives).unwrap_or(u32::MAX),
            messages: args.max_concurrent,
            keep_every: self.visibility_timeout / 3,
        };
        Ok(Some((queue, intake)))
    }
}

/// `s3://bucket/a/b/` is `a/b` in `bucket`; `None` for other places.
fn bucket_and_prefix(location: &str) -> Option<(&str, &str)> {
    let rest = location.strip_prefix("s3://")?;
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    Some((bucket, prefix.trim_matches('/')))
}

impl StoreArgs {
    /// Opens the store.
    pub async fn open(&self) -> Result<OpenStore, Failure> {
        self.open_observed(Arc::new(())).await
    }

    /// Opens the store; the observer is told of every request.
    pub async fn open_observed(&self, observer: Arc<dyn Observer>) -> Result<OpenStore, Failure> {
        self.open_at(&self.location(), observer).await
    }

    fn location(&self) -> String {
        match (&self.store, &self.s3_bucket) {
            (Some(store), _) => store.clone(),
            (None, Some(bucket)) => format!("s3://{bucket}"),
            (None, None) => "./gravity-data".to_owned(),
        }
    }

    /// Tells one bucket and prefix of one server from all others; `None` if the store is a folder.
    pub fn bucket_id(&self) -> Option<String> {
        let location = self.location();
        let (bucket, prefix) = bucket_and_prefix(&location)?;
        Some(format!("{} {bucket} {prefix}", self.endpoint_url.as_deref().unwrap_or_default()))
    }

    /// Opens a store at some other place, with the same region and endpoint.
    pub async fn open_at(&self, location: &str, observer: Arc<dyn Observer>) -> Result<OpenStore, Failure> {
        if location == "discard:" {
            return Ok(ready(Discard, self.s3.retry(), observer));
        }
        if let Some((bucket, prefix)) = bucket_and_prefix(location) {
            if !is_bucket(bucket) {
                let rule = "a bucket's name is 3 to 255 letters, digits, `.`, `-` and `_`";
                return Err(Failure::Usage(format!("store {location:?} (--store, S3_BUCKET): {rule}")));
            }
            let settings = S3Settings {
                region: self.s3_region.clone(),
                endpoint: self.endpoint_url.clone(),
                ..self.s3.settings(bucket, prefix).map_err(Failure::Usage)?
            };
            return Ok(ready(S3::open(settings).await, self.s3.retry(), observer));
        }
        if location.contains("://") {
            return Err(Failure::Usage(format!("store {location:?}: only s3:// URLs and folders are known")));
        }
        Ok(ready(Directory::open(location)?, self.s3.retry(), observer))
    }

    /// Opens a place for files whose names others chose: in a folder nothing is reached through a symbolic link.
    pub async fn open_target(&self, location: &str) -> Result<OpenStore, Failure> {
        if location == "discard:" || location.contains("://") {
            return self.open_at(location, Arc::new(())).await;
        }
        Ok(ready(Directory::open_without_links(location)?, self.s3.retry(), Arc::new(())))
    }

    /// The folders.
    ///
    /// # Errors
    /// If one lies in another: what one holds would be taken for the other.
    pub fn paths(&self) -> Result<Paths, Failure> {
        let paths = Paths {
            raw_spans: self.raw_spans_path.clone(),
            blobs: self.blobs_path.clone(),
            indexes: self.indexes_path.clone(),
        };
        let ours =
            [("RAW_SPANS_PATH", &*paths.raw_spans), ("BLOBS_PATH", &*paths.blobs), ("INDEXES_PATH", &*paths.indexes)];
        let fixed = [
            ("the ledger", LEDGER),
            ("the quarantine", QUARANTINE),
            ("the nodes", NODES),
            ("the spans", SPANS),
            ("the store's own folder", ".gravity"),
        ];
        for (at, (name, folder)) in ours.iter().enumerate() {
            for (other, taken) in ours[..at].iter().chain(&fixed) {
                let lies_in = |a: &str, b: &str| a == b || a.strip_prefix(b).is_some_and(|rest| rest.starts_with('/'));
                if lies_in(folder, taken) || lies_in(taken, folder) {
                    return Err(Failure::Usage(format!("{name}={folder:?} overlaps {other}, {taken:?}")));
                }
            }
        }
        Ok(paths)
    }
}

impl ContentArgs {
    /// What is content.
    pub fn keys(&self) -> ContentKeys {
        ContentKeys::new(self.content_keys.clone(), self.exclude_keys.clone())
    }
}

impl PipelineArgs {
    /// Everything the pipeline is told.
    pub fn settings(&self) -> Result<Settings, Failure> {
        let Self { store, content, limits, packed, .. } = self;
        Ok(Settings {
            paths: store.paths()?,
            separator: content.chunk_separator.clone(),
            keys: content.keys(),
            decompress: decompress::Limits { max_bytes: limits.max_batch_bytes, max_ratio: limits.max_ratio as u64 },
            frames: FrameLimits { max_record_bytes: usize::try_from(limits.max_span_bytes).unwrap_or(usize::MAX) },
            requests: store.max_requests,
            known_budget: usize::try_from(limits.known_chunks_bytes).unwrap_or(usize::MAX),
            max_index_bytes: limits.max_index_bytes,
            layout: packed.layout,
            batches: self.max_concurrent,
            table_bytes: usize::try_from(packed.dedup_bytes).unwrap_or(usize::MAX),
            flush: FlushSettings { bytes: packed.flush_bytes, interval: None },
            ..Settings::default()
        })
    }
}

fn is_bucket(name: &str) -> bool {
    (3..=255).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b))
}

fn ready<S: Store>(store: S, policy: retry::Policy, observer: Arc<dyn Observer>) -> OpenStore {
    let metered = Arc::new(Metered::observed(store, observer));
    let requests = Box::new(metered.requests());
    OpenStore { store: Arc::new(Retrying::over(metered.clone(), policy)), untried: metered, requests }
}

/// Parsers of values. Their errors name the environment variable, since that is where most values come from.
pub mod parse {
    use super::{Key, Layout, Separator, Share};
    use crate::listener::Listen;
    use std::time::{Duration, SystemTime};

    /// A whole number from 1.
    pub fn count(name: &'static str) -> impl Fn(&str) -> Result<usize, String> + Clone {
        move |value| match value.trim().parse() {
            Ok(n @ 1..=1_000_000) => Ok(n),
            _ => Err(format!("{name} must be a whole number from 1 to 1000000, not {value:?}")),
        }
    }

    /// `loose` or `packed`.
    pub fn layout(value: &str) -> Result<Layout, String> {
        [Layout::Loose, Layout::Packed]
            .into_iter()
            .find(|layout| layout.name() == value.trim())
            .ok_or_else(|| format!("GRAVITY_LAYOUT must be loose or packed, not {value:?}"))
    }

    /// `5`, `5s`, `500ms`, `1h 30m`.
    pub fn duration(name: &'static str) -> impl Fn(&str) -> Result<Duration, String> + Clone {
        move |value| {
            let seconds = value.trim().parse().ok().and_then(|s| Duration::try_from_secs_f64(s).ok());
            let time = seconds.or_else(|| humantime::parse_duration(value.trim()).ok());
            time.ok_or_else(|| format!("{name} must be a time such as 5, 500ms or 1h, not {value:?}"))
        }
    }

    /// A time that is not nothing: requests are paid for.
    pub fn pause(name: &'static str) -> impl Fn(&str) -> Result<Duration, String> + Clone {
        move |value| match duration(name)(value)? {
            Duration::ZERO => Err(format!("{name} must be more than nothing, not {value:?}")),
            pause => Ok(pause),
        }
    }

    /// `off`, or a host and a port.
    pub fn listen(value: &str) -> Result<Listen, String> {
        let value = value.trim();
        let port = value.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port.parse::<u16>());
        match port {
            _ if value == "off" => Ok(Listen::Off),
            Some(Ok(_)) => Ok(Listen::At(value.to_owned())),
            _ => Err(format!("GRAVITY_LISTEN must be a host and a port such as 127.0.0.1:9464, or off, not {value:?}")),
        }
    }

    /// A region's name.
    pub fn region(value: &str) -> Result<String, String> {
        match value.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
            true => Ok(value.to_owned()),
            false => Err(format!("S3_REGION must be a region such as eu-central-1, not {value:?}")),
        }
    }

    /// `1000`, `64MiB`, `2GB`.
    pub fn size(name: &'static str) -> impl Fn(&str) -> Result<u64, String> + Clone {
        move |value| {
            let value = value.trim();
            let digits = value.find(|c: char| !c.is_ascii_digit()).unwrap_or(value.len());
            let unit: u64 = match value[digits..].trim() {
                "" | "B" => 1,
                "kB" | "KB" => 1000,
                "KiB" => 1 << 10,
                "MB" => 1_000_000,
                "MiB" => 1 << 20,
                "GB" => 1_000_000_000,
                "GiB" => 1 << 30,
                "TB" => 1_000_000_000_000,
                "TiB" => 1 << 40,
                _ => 0,
            };
            let size = value[..digits].parse::<u64>().ok().and_then(|n| n.checked_mul(unit)).filter(|&n| n > 0);
            size.ok_or_else(|| format!("{name} must be a size such as 1000, 64MiB or 2GB, not {value:?}"))
        }
    }

    /// `5%`: a share of 100.
    pub fn share(value: &str) -> Result<Share, String> {
        let percent = value.trim().strip_suffix('%').and_then(|number| number.trim_end().parse::<f64>().ok());
        let share = percent.and_then(|percent| Share::new(percent / 100.0));
        share.ok_or_else(|| format!("--sample must be a share from 0% to 100% such as 5%, not {value:?}"))
    }

    /// `24h`: so long ago; or a date, in UTC where it does not say.
    pub fn since(value: &str) -> Result<SystemTime, String> {
        moment("--since", value)
    }

    /// The same.
    pub fn until(value: &str) -> Result<SystemTime, String> {
        moment("--until", value)
    }

    fn moment(name: &'static str, value: &str) -> Result<SystemTime, String> {
        let value = value.trim();
        let ago = duration(name)(value).ok().and_then(|ago| SystemTime::now().checked_sub(ago));
        let day = || humantime::parse_rfc3339_weak(&format!("{value}T00:00:00Z"));
        let time = ago.or_else(|| humantime::parse_rfc3339_weak(value).or_else(|_| day()).ok());
        time.ok_or_else(|| format!("{name} must be a time such as 24h, or a date such as 2025-10-31, not {value:?}"))
    }

    /// A day in UTC, as the store's folders have it.
    pub fn day(name: &'static str) -> impl Fn(&str) -> Result<String, String> + Clone {
        move |value| {
            let day = value.trim();
            match day.len() == 10 && humantime::parse_rfc3339(&format!("{day}T00:00:00Z")).is_ok() {
                true => Ok(day.to_owned()),
                false => Err(format!("{name} must be a day such as 2025-10-31, not {value:?}")),
            }
        }
    }

    /// A price.
    pub fn price(name: &'static str) -> impl Fn(&str) -> Result<f64, String> + Clone {
        move |value| match value.trim().parse::<f64>() {
            Ok(price) if price.is_finite() && price >= 0.0 => Ok(price),
            _ => Err(format!("{name} must be an amount of dollars such as 0.005, not {value:?}")),
        }
    }

    /// A folder within the store.
    pub fn folder(name: &'static str) -> impl Fn(&str) -> Result<String, String> + Clone {
        move |value| {
            let folder = value.trim_matches('/');
            Key::new(folder).map(|key| key.to_string()).map_err(|e| format!("{name}={value:?}: {}", e.message))
        }
    }

    /// What content is cut at.
    pub fn separator(value: &str) -> Result<Separator, String> {
        value.parse().map_err(|e| format!("CHUNK_SEPARATOR={value:?}: {e}"))
    }

    /// An HTTP address.
    pub fn endpoint(name: &'static str) -> impl Fn(&str) -> Result<String, String> + Clone {
        move |value| match is_address(value) {
            true => Ok(value.to_owned()),
            false => Err(format!("{name} must be an address such as http://127.0.0.1:8333, not {value:?}")),
        }
    }

    /// A queue's URL.
    pub fn queue(value: &str) -> Result<String, String> {
        let example = "https://sqs.eu-central-1.amazonaws.com/123456789012/gravity";
        match is_address(value) && value.matches('/').count() > 3 {
            true => Ok(value.to_owned()),
            false => Err(format!("SQS_QUEUE_URL must be a queue's URL such as {example}, not {value:?}")),
        }
    }

    fn is_address(value: &str) -> bool {
        let host = value.strip_prefix("http://").or_else(|| value.strip_prefix("https://"));
        host.is_some_and(|host| !host.is_empty() && !host.starts_with('/') && !host.contains(char::is_whitespace))
    }

    /// What SQS allows; less than three seconds could not be renewed in time.
    pub fn visibility(value: &str) -> Result<Duration, String> {
        match duration("SQS_VISIBILITY_TIMEOUT")(value)? {
            time if (3..=12 * 60 * 60).contains(&time.as_secs()) => Ok(time),
            _ => Err(format!("SQS_VISIBILITY_TIMEOUT must be from 3s to 12h, not {value:?}")),
        }
    }
}
