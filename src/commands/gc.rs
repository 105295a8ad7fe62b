//! `gravity gc`: what nobody needs any more goes.

use super::compact::must_be_packed;
use crate::cli::GcArgs;
use crate::config::OpenStore;
use crate::exit::{Done, Failure};
use crate::progress::Progress;
use crate::say::say;
use crate::shutdown;
use crate::units::{bytes, counted};
use gravity_pipeline::packed::gc::{Removed, Settings, Why, gc};
use gravity_pipeline::packed::table::FORGET_AFTER;
use std::io::Write;

/// Collects.
pub async fn run(args: GcArgs, quiet: bool) -> Result<Done, Failure> {
    let stop = shutdown::listen();
    let OpenStore { store, .. } = args.store.open().await?;
    must_be_packed(&*store, "gc").await?;
    let settings = Settings { older_than: args.older_than, dry_run: args.dry_run };
    if args.older_than < FORGET_AFTER && !args.dry_run {
        tracing::warn!(
            "--older-than below {}: safe only while nobody writes or reads, since a worker may still name what it wrote so \
             long ago",
            humantime::format_duration(FORGET_AFTER)
        );
    }
    let progress = Progress::of_objects(quiet);
    let (mut files, mut size, mut written) = (0, 0, Ok(()));
    let mut tell = |removed: Removed| {
        files += 1;
        size += removed.bytes;
        progress.add(1);
        // What was begun is finished though nobody listens.
        if written.is_ok() && (args.json || !quiet) {
            let line = line(&removed, &args);
            written = progress.aside(|| writeln!(std::io::stdout(), "{line}"));
        }
    };
    let collected = gc(store.clone(), settings, &stop, &mut tell).await;
    progress.finish();
    let damaged = collected?;
    written.map_err(|e| Failure::stdout(&e))?;
    if !quiet && !args.json {
        let did = if args.dry_run { "would be removed" } else { "removed" };
        say!("{}: {}, {} {did}", store.location(), counted(files, "file"), bytes(size));
    }
    if stop.is_cancelled() {
        return Err(Failure::Failed("interrupted: run it again for the rest".into()));
    }
    Ok(if damaged > 0 { Done::WithFailures } else { Done::Well })
}

fn line(removed: &Removed, args: &GcArgs) -> String {
    if args.json {
        // Strings and a number.
        return serde_json::to_string(removed).unwrap_or_default();
    }
    let why = match removed.why {
        Why::Replaced => "replaced",
        Why::Orphan => "orphan",
    };
    format!("{why}  {}  ({})", removed.key, bytes(removed.bytes))
}
