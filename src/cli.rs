//! The command line's definition. Help, completions and man pages all come from here.

use crate::cache::CacheArgs;
use crate::config::{ContentArgs, PipelineArgs, PriceArgs, QueueArgs, StoreArgs, parse};
use crate::later::{Later, without_empty_variables};
use crate::listener::Listen;
use clap::{ArgAction, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use gravity_pipeline::verify::Share;
use std::time::{Duration, SystemTime};

/// Keeps every LLM trace for good, byte for byte.
#[derive(Debug, Parser)]
#[command(name = "gravity", version, about, max_term_width = 100)]
#[command(after_help = "Examples:
  gravity ingest dev/sample                    store the sample batches in ./gravity-data
  cat batch.json.gz | gravity ingest           the same for a pipe
  gravity worker --store s3://bucket           run until SIGTERM
  gravity reconstruct 44e0...                  a trace's content, exactly, to stdout
  gravity restore raw-spans/.../batch.json.gz  a raw batch out of a packed store, exactly, to stdout
  gravity inspect                              what the store holds and saves
  gravity verify                               that all of it is there and whole

Exit codes: 0 done, 1 failed, 2 usage, 3 done but something went to quarantine.")]
pub struct Cli {
    /// How to log.
    #[command(flatten)]
    pub logging: LogArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Parses the command line and the environment, or ends with a usage error.
pub fn parse() -> Cli {
    let matches = without_empty_variables(Cli::command()).get_matches();
    Cli::from_arg_matches(&matches).unwrap_or_else(|e| e.exit())
}

/// How much is logged, and how.
#[derive(Debug, Args)]
pub struct LogArgs {
    /// Log more: -v informs, -vv debugs.
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
    /// No summary, no progress, only errors.
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Form of the log lines on stderr.
    #[arg(long, global = true, env = "LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

/// Form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// When a raw file may be deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DeleteRaw {
    /// Once its packed form was read back and found byte-exact.
    Verified,
}

/// What gravity can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run raw batch files through the pipeline into the store.
    ///
    /// Input may be gzip, zstd or plain, OTLP JSON or protobuf: it is told by its bytes, not by its name. The index
    /// of each trace goes to stdout as a line of JSON once it is committed, a summary to stderr.
    #[command(after_help = "Examples:
  gravity ingest dev/sample > indexes.jsonl
  cat batch.json.gz | gravity ingest
  gravity ingest --store s3://traces s3://traces/raw-spans/dt=2025-10-31/
  gravity ingest --key raw-spans/one.json.gz - < one.json.gz")]
    Ingest(Later<IngestArgs>),
    /// Process new batches as they come, until SIGTERM or SIGINT.
    #[command(after_help = "Examples:
  gravity worker --store s3://traces
  gravity worker --store ./gravity-data --once
  gravity worker --store s3://traces --queue https://sqs.eu-central-1.amazonaws.com/123456789012/gravity
  S3_BUCKET=traces AWS_ENDPOINT_URL=http://127.0.0.1:8333 POLL_INTERVAL=2s gravity worker --log-format json")]
    Worker(Later<WorkerArgs>),
    /// Ask a worker on this machine whether it is ready, for a container's healthcheck.
    ///
    /// Prints what its /readyz says. Ends with 0 if it is ready, else with 1.
    #[command(after_help = "Examples:
  gravity health
  gravity health --listen 127.0.0.1:9465")]
    Health(Later<HealthArgs>),
    /// Write a trace's content to stdout, exactly as it arrived.
    #[command(after_help = "Examples:
  gravity reconstruct 44e0a6b4c1d24f7f9c8e5b7a3d2f1e00
  gravity reconstruct --list 44e0a6b4c1d24f7f9c8e5b7a3d2f1e00
  gravity reconstruct --span 1ac2b3d4e5f60718 --part input.value 44e0a6b4c1d24f7f9c8e5b7a3d2f1e00
  gravity reconstruct --json 44e0a6b4c1d24f7f9c8e5b7a3d2f1e00 | jq -r .content
  gravity reconstruct --otlp 44e0a6b4c1d24f7f9c8e5b7a3d2f1e00 | jq .resourceSpans")]
    Reconstruct(Later<ReconstructArgs>),
    /// Write raw batches out of a packed store, byte for byte.
    ///
    /// One batch goes to stdout, decompressed. With --all those of a range go into a folder or bucket as gzip files,
    /// where the collector's S3 receiver can replay them: under their own keys; `.zst` becomes `.gz`, and a name
    /// without `.gz` gets it. What no file can be named (`..`, an empty segment, `\`) is percent-encoded, and no symbolic
    /// link in the folder is followed, so nothing is ever written outside. Where two batches would have one name, a hash
    /// tells the second apart. A batch that is there already with the same content is left, with another one it is an
    /// error, so a run that was interrupted can be repeated. Every batch is compared with the BLAKE3 of what came.
    /// A loose store keeps content only, and nothing to restore from.
    #[command(after_help = "Examples:
  gravity restore raw-spans/dt=2025-10-31/hour=11/batch-1.json.gz | jq .
  gravity restore --list --prefix raw-spans/dt=2025-10-31/
  gravity restore --all --to ./replay --prefix raw-spans/dt=2025-10-31/
  gravity restore --all --to s3://other/again --since 2025-10-31T11:00:00Z --until 2025-10-31T13:00:00Z")]
    Restore(Later<RestoreArgs>),
    /// Write a packed store out as a loose one.
    ///
    /// Every batch is restored, compared with its BLAKE3, and run through the loose pipeline under its key. Batches that
    /// the target's ledger has are passed over, so a run that was interrupted can be repeated. The other way there is
    /// nothing to convert, since a loose store keeps no envelope: where the raw files still stand, ingest them with
    /// --layout packed into another prefix or folder.
    #[command(after_help = "Examples:
  gravity convert --from ./packed --to ./loose
  gravity convert --store s3://traces/packed --to s3://traces/loose
The other way:
  gravity ingest --layout packed --store s3://traces/packed s3://traces/raw-spans/")]
    Convert(Later<ConvertArgs>),
    /// Show what the store holds, what it saves and what it costs.
    #[command(after_help = "Examples:
  gravity inspect
  gravity inspect --json --store s3://traces | jq .ratio")]
    Inspect(Later<InspectArgs>),
    /// Prove that what the store says it has is there, and is what it was.
    ///
    /// Findings are errors (something is missing or changed), warnings (something that Gravity did not write, or that
    /// contradicts itself harmlessly) and infos (what a crash or a worker at work leaves). Ends with 1 if there is an
    /// error, else with 0. Workers may go on meanwhile.
    #[command(after_help = "Examples:
  gravity verify
  gravity verify --sample 5% --since 24h --store s3://traces
  gravity verify --trace 44e0a6b4c1d24f7f9c8e5b7a3d2f1e00
  gravity verify --json | jq -r 'select(.level == \"error\").key'")]
    Verify(Later<VerifyArgs>),
    /// Merge a packed store's small files, drop what is there twice, and compress it as hard as can be.
    ///
    /// Day by day: what is new is proved to give back every batch, byte for byte, before it counts, and nothing is
    /// deleted: the files replaced go with `gravity gc`. Workers and readers may go on meanwhile. Run it again after
    /// whatever interrupted it; what is compacted already is left alone.
    #[command(after_help = "Examples:
  gravity compact --dry-run
  gravity compact --store s3://traces --until 2025-10-31
  gravity compact --day 2025-10-31 && gravity gc
  gravity compact --json | jq -s 'map(.bytes_before - .bytes_after) | add'")]
    Compact(Later<CompactArgs>),
    /// Remove what compaction replaced and what interrupted flushes left, once it is old enough.
    ///
    /// Readers and workers may still need what has just been replaced, so only what is older than --older-than goes.
    #[command(after_help = "Examples:
  gravity gc --dry-run
  gravity gc --store s3://traces --older-than 48h
  gravity gc --json | jq -r .key")]
    Gc(Later<GcArgs>),
    /// Show what could not be stored, and try it again or remove it.
    #[command(
        subcommand,
        after_help = "Examples:
  gravity quarantine list
  gravity quarantine show raw-spans/dt=2025-10-31/hour=11/batch-1.json.gz
  gravity quarantine retry --all
  gravity quarantine drop --yes raw-spans/dt=2025-10-31/hour=11/batch-1.json.gz"
    )]
    Quarantine(QuarantineCommand),
    /// Show which attributes and events are content.
    #[command(after_help = "Examples:
  gravity keys
  gravity keys --json | jq -r 'select(.producer == \"LiteLLM\").key'")]
    Keys {
        /// One JSON object a line.
        #[arg(long)]
        json: bool,
    },
    /// Write a completion script for a shell to stdout.
    #[command(after_help = "Example:
  gravity completions bash > ~/.local/share/bash-completion/completions/gravity")]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Write the manual pages into a folder.
    #[command(after_help = "Example:
  gravity man ~/.local/share/man/man1")]
    Man {
        /// The folder; it must exist.
        folder: std::path::PathBuf,
    },
}

/// Options of `ingest`.
#[derive(Debug, Args)]
pub struct IngestArgs {
    /// Files, folders, s3:// URLs (ending in / for all below), or - for standard input.
    #[arg(value_name = "FILE|DIR|URL|-")]
    pub inputs: Vec<String>,
    /// Name of the batch that comes on standard input [default: stdin/ and the first 16 digits of its BLAKE3].
    #[arg(long, value_name = "NAME")]
    pub key: Option<String>,
    /// Process batches again that are stored already: loose, with the same bytes (objects: with the same key and size);
    /// packed, objects with the same key.
    #[arg(long)]
    pub again: bool,
    /// What is kept of a bucket.
    #[command(flatten)]
    pub cache: CacheArgs,
    /// What the pipeline is told.
    #[command(flatten)]
    pub pipeline: PipelineArgs,
}

/// Options of `worker`.
#[derive(Debug, Args)]
pub struct WorkerArgs {
    /// Process what is in the store, then exit; a queue is left alone.
    #[arg(long)]
    pub once: bool,
    /// Pause between two looks for new batches.
    #[arg(long, env = "POLL_INTERVAL", value_name = "TIME", default_value = "5s", value_parser = parse::pause("POLL_INTERVAL"))]
    pub poll_interval: Duration,
    /// Pause between two full passes, which find what came late into an old hour.
    #[arg(long, env = "FULL_SCAN_INTERVAL", value_name = "TIME", default_value = "1h", value_parser = parse::pause("FULL_SCAN_INTERVAL"))]
    pub full_scan_interval: Duration,
    /// Packed: delete a raw file once its packed form was read back from the store and found byte-exact.
    #[arg(long, env = "DELETE_RAW", value_name = "verified")]
    pub delete_raw: Option<DeleteRaw>,
    /// How long batches in work may take to finish after SIGTERM.
    #[arg(long, env = "SHUTDOWN_GRACE", value_name = "TIME", default_value = "25s", value_parser = parse::duration("SHUTDOWN_GRACE"))]
    pub shutdown_grace: Duration,
    /// Where /healthz, /readyz and /metrics are, or `off` [default: 127.0.0.1:9464, or off with --once].
    #[arg(long, env = "GRAVITY_LISTEN", value_name = "HOST:PORT", value_parser = parse::listen)]
    pub listen: Option<Listen>,
    /// What the pipeline is told.
    #[command(flatten)]
    pub pipeline: PipelineArgs,
    /// Where it is told of new batches.
    #[command(flatten)]
    pub queue: QueueArgs,
    /// What is kept of a bucket.
    #[command(flatten)]
    pub cache: CacheArgs,
}

/// Options of `health`.
#[derive(Debug, Args)]
pub struct HealthArgs {
    /// Where the worker listens [default: 127.0.0.1:9464].
    #[arg(long, env = "GRAVITY_LISTEN", value_name = "HOST:PORT", value_parser = parse::listen)]
    pub listen: Option<Listen>,
}

/// Options of `reconstruct`.
#[derive(Debug, Args)]
pub struct ReconstructArgs {
    /// The trace: 32 hex digits.
    pub trace_id: String,
    /// Only this span: 16 hex digits.
    #[arg(long, value_name = "ID")]
    pub span: Option<String>,
    /// Only parts of this key.
    #[arg(long, value_name = "KEY")]
    pub part: Option<String>,
    /// Show the spans and parts with their sizes instead of the content.
    #[arg(long, conflicts_with = "json")]
    pub list: bool,
    /// One JSON object a part and line, with its key.
    #[arg(long)]
    pub json: bool,
    /// The trace's spans and log records as one OTLP JSON document, with their resources and scopes (packed stores). What
    /// came as JSON is as it came, what came as protobuf is written in JSON: a view. What came, byte for byte, is what
    /// `gravity restore` gives.
    #[arg(long, conflicts_with_all = ["json", "list", "span", "part"])]
    pub otlp: bool,
    /// Which store.
    #[command(flatten)]
    pub store: StoreArgs,
    /// What is kept of a bucket.
    #[command(flatten)]
    pub cache: CacheArgs,
    /// What is content, and what it is cut at (packed stores; loose ones were cut when they were written).
    #[command(flatten)]
    pub content: ContentArgs,
}

/// Options of `restore`.
#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// The batch's key.
    #[arg(required_unless_present_any = ["all", "list"], conflicts_with_all = ["all", "list"])]
    pub raw_key: Option<String>,
    /// Every batch, or those of a range.
    #[arg(long, requires = "to", conflicts_with = "list")]
    pub all: bool,
    /// Where --all writes: s3://bucket/prefix, or a folder.
    #[arg(long, value_name = "URL|DIR")]
    pub to: Option<String>,
    /// Show the keys of the batches of the range, one a line.
    #[arg(long)]
    pub list: bool,
    /// Only batches whose key begins so.
    #[arg(long, value_name = "KEYPREFIX", default_value = "", hide_default_value = true, conflicts_with = "raw_key")]
    pub prefix: String,
    /// Only batches of that time or later: 24h ago, or a date such as 2025-10-31 or 2025-10-31T11:00:00Z. A batch's
    /// time is the hour or day that the folders of its key tell (dt=2025-10-31/hour=11), else when it was stored.
    #[arg(long, value_name = "TIME", conflicts_with = "raw_key", value_parser = parse::since)]
    pub since: Option<SystemTime>,
    /// Only batches of before that time.
    #[arg(long, value_name = "TIME", conflicts_with = "raw_key", value_parser = parse::until)]
    pub until: Option<SystemTime>,
    /// Batches restored at a time; each is in memory compressed.
    #[arg(long, env = "MAX_CONCURRENT", value_name = "N", default_value = "4", value_parser = parse::count("MAX_CONCURRENT"))]
    pub max_concurrent: usize,
    /// Which store.
    #[command(flatten)]
    pub store: StoreArgs,
    /// What is kept of a bucket.
    #[command(flatten)]
    pub cache: CacheArgs,
}

/// Options of `convert`.
#[derive(Debug, Args)]
pub struct ConvertArgs {
    /// The packed store [default: as --store].
    #[arg(long, value_name = "URL|DIR")]
    pub from: Option<String>,
    /// The loose store; it may be new, or hold batches already.
    #[arg(long, value_name = "URL|DIR")]
    pub to: String,
    /// What the pipeline is told.
    #[command(flatten)]
    pub pipeline: PipelineArgs,
}

/// Options of `inspect`.
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// One JSON object instead of a table.
    #[arg(long)]
    pub json: bool,
    /// Largest traces to show.
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub largest: usize,
    /// Which store.
    #[command(flatten)]
    pub store: StoreArgs,
    /// What is kept of a bucket.
    #[command(flatten)]
    pub cache: CacheArgs,
    /// What requests and storage cost.
    #[command(flatten)]
    pub prices: PriceArgs,
}

/// Options of `verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Share of the blobs that are read and hashed, the same ones each time; that they are there is checked for all.
    /// Packed: share of the batches that are restored.
    #[arg(long, value_name = "PERCENT", default_value = "100%", value_parser = parse::share)]
    pub sample: Share,
    /// Only this trace, its blobs and whether its batches are done: 32 hex digits. Packed: its rows and nodes.
    #[arg(long, value_name = "ID")]
    pub trace: Option<String>,
    /// Only indexes and ledger entries (packed: files of spans) written since: 24h ago, or a date such as 2025-10-31 or 2025-10-31T11:00:00Z.
    #[arg(long, value_name = "TIME", conflicts_with = "trace", value_parser = parse::since)]
    pub since: Option<SystemTime>,
    /// Memory for the names of blobs: what does not fit takes more passes through the indexes. Packed: not used.
    #[arg(long, value_name = "SIZE", default_value = "256MiB", value_parser = parse::size("--memory"))]
    pub memory: u64,
    /// One JSON object a line: the findings, then a summary.
    #[arg(long)]
    pub json: bool,
    /// Which store.
    #[command(flatten)]
    pub store: StoreArgs,
}

/// Options of `compact`.
#[derive(Debug, Args)]
pub struct CompactArgs {
    /// Only this day (UTC): 2025-10-31. May be given again.
    #[arg(long, value_name = "DAY", conflicts_with_all = ["since", "until"], value_parser = parse::day("--day"))]
    pub day: Vec<String>,
    /// Only this day and later ones.
    #[arg(long, value_name = "DAY", value_parser = parse::day("--since"))]
    pub since: Option<String>,
    /// Only this day and earlier ones.
    #[arg(long, value_name = "DAY", value_parser = parse::day("--until"))]
    pub until: Option<String>,
    /// Only say what it would come to: everything is done but the writing.
    #[arg(long)]
    pub dry_run: bool,
    /// One JSON object a day and line.
    #[arg(long)]
    pub json: bool,
    /// Which store.
    #[command(flatten)]
    pub store: StoreArgs,
}

/// Options of `gc`.
#[derive(Debug, Args)]
pub struct GcArgs {
    /// Leave alone what was written since, and what was replaced since. 0s only where nobody writes or reads.
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = parse::duration("--older-than"))]
    pub older_than: Duration,
    /// Only say what would go.
    #[arg(long)]
    pub dry_run: bool,
    /// One JSON object a file and line.
    #[arg(long)]
    pub json: bool,
    /// Which store.
    #[command(flatten)]
    pub store: StoreArgs,
}

/// What to do with the quarantine.
#[derive(Debug, Subcommand)]
pub enum QuarantineCommand {
    /// List the batches with reason and tries, and the objects of records that no trace can hold.
    #[command(after_help = "Example:
  gravity quarantine list --json | jq -r .reason")]
    List {
        /// One JSON object a line.
        #[arg(long)]
        json: bool,
        /// Which store.
        #[command(flatten)]
        store: StoreArgs,
    },
    /// Show all that is known of one batch, and its records that no trace can hold.
    #[command(after_help = "Example:
  gravity quarantine show raw-spans/dt=2025-10-31/hour=11/batch-1.json.gz")]
    Show {
        /// The batch's key, as `list` has it.
        key: String,
        /// One JSON object.
        #[arg(long)]
        json: bool,
        /// Which store.
        #[command(flatten)]
        store: StoreArgs,
    },
    /// Take batches out, so that a worker tries them again at its next full pass.
    #[command(after_help = "Examples:
  gravity quarantine retry raw-spans/dt=2025-10-31/hour=11/batch-1.json.gz
  gravity quarantine retry --all && gravity worker --once")]
    Retry {
        /// The batches' keys, as `list` has them.
        #[arg(value_name = "KEY", required_unless_present = "all")]
        keys: Vec<String>,
        /// Every batch in quarantine.
        #[arg(long, conflicts_with = "keys")]
        all: bool,
        /// Which store.
        #[command(flatten)]
        store: StoreArgs,
    },
    /// Remove what quarantine has of batches, their records too. The raw files stay.
    #[command(after_help = "Example:
  gravity quarantine drop --yes raw-spans/dt=2025-10-31/hour=11/batch-1.json.gz")]
    Drop {
        /// The batches' keys, as `list` has them.
        #[arg(value_name = "KEY", required = true)]
        keys: Vec<String>,
        /// Really.
        #[arg(long)]
        yes: bool,
        /// Which store.
        #[command(flatten)]
        store: StoreArgs,
    },
}
