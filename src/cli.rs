//! The command line's definition. Help, completions and man pages all come from here.

use crate::config::{PipelineArgs, PriceArgs, QueueArgs, StoreArgs, parse};
use crate::listener::Listen;
use clap::builder::Resettable;
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

/// A variable that is set to nothing is not set: compose files pass such variables on.
fn without_empty_variables(command: clap::Command) -> clap::Command {
    let is_empty = |arg: &clap::Arg| arg.get_env().and_then(std::env::var_os).is_some_and(|value| value.is_empty());
    command
        .mut_args(|arg| if is_empty(&arg) { arg.env(Resettable::Reset) } else { arg })
        .mut_subcommands(without_empty_variables)
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
    Ingest(IngestArgs),
    /// Process new batches as they come, until SIGTERM or SIGINT.
    #[command(after_help = "Examples:
  gravity worker --store s3://traces
  gravity worker --store ./gravity-data --once
  gravity worker --store s3://traces --queue https://sqs.eu-central-1.amazonaws.com/123456789012/gravity
  S3_BUCKET=traces AWS_ENDPOINT_URL=http://127.0.0.1:8333 POLL_INTERVAL=2s gravity worker --log-format json")]
    Worker(WorkerArgs),
    /// Ask a worker on this machine whether it is ready, for a container's healthcheck.
    ///
    /// Prints what its /readyz says. Ends with 0 if it is ready, else with 1.
    #[command(after_help = "Examples:
  gravity health
  gravity health --listen 127.0.0.1:9465")]
    Health(HealthArgs),
    /// Write a trace's content to stdout, exactly as it arrived.
    #[command(after_help = "Examples:
  gravity reconstruct 44e0a6b4c1d24f7f9c8e5b7a3d2f1e00
  gravity reconstruct --list 44e0a6b4c1d24f7f9c8e5b7a3d2f1e00
  gravity reconstruct --span 1ac2b3d4e5f60718 --part input.value 44e0a6b4c1d24f7f9c8e5b7a3d2f1e00
  gravity reconstruct --json 44e0a6b4c1d24f7f9c8e5b7a3d2f1e00 | jq -r .content")]
    Reconstruct(ReconstructArgs),
    /// Show what the store holds, what it saves and what it costs.
    #[command(after_help = "Examples:
  gravity inspect
  gravity inspect --json --store s3://traces | jq .ratio")]
    Inspect(InspectArgs),
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
    Verify(VerifyArgs),
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
    /// Process batches again that the ledger has with the same bytes (objects: with the same key and size).
    #[arg(long)]
    pub again: bool,
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
    /// Which store.
    #[command(flatten)]
    pub store: StoreArgs,
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
    /// What requests and storage cost.
    #[command(flatten)]
    pub prices: PriceArgs,
}

/// Options of `verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Share of the blobs that are read and hashed, the same ones each time; that they are there is checked for all.
    #[arg(long, value_name = "PERCENT", default_value = "100%", value_parser = parse::share)]
    pub sample: Share,
    /// Only this trace, its blobs and whether its batches are done: 32 hex digits.
    #[arg(long, value_name = "ID")]
    pub trace: Option<String>,
    /// Only indexes and ledger entries written since: 24h ago, or a date such as 2025-10-31 or 2025-10-31T11:00:00Z.
    #[arg(long, value_name = "TIME", conflicts_with = "trace", value_parser = parse::since)]
    pub since: Option<SystemTime>,
    /// Memory for the names of blobs: what does not fit takes more passes through the indexes.
    #[arg(long, value_name = "SIZE", default_value = "256MiB", value_parser = parse::size("--memory"))]
    pub memory: u64,
    /// One JSON object a line: the findings, then a summary.
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
