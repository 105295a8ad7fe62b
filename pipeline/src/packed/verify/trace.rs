//! The rows of one trace.

use super::{Verifier, of_this_object};
use crate::error::{Error, Result};
use crate::ids::TraceId;
use crate::packed::catalog::{Files, SpansFile};
use crate::packed::restore::{heads_of_group, rows_of_trace};
use crate::verify::Level;

impl Verifier<'_> {
    /// The rows of one trace, put together. What a batch's BLAKE3 would tell needs the whole batch.
    pub(super) async fn one_trace(&mut self, files: &Files, trace: TraceId) -> Result<()> {
        let mut is_there = false;
        for (key, file) in files.live() {
            let groups: Vec<usize> = file.groups_of(&trace).collect();
            let mut looked_at = false;
            for group in groups {
                self.report.looked_at(1);
                let heads = match of_this_object(heads_of_group(&self.reader, &file.open()?, group).await)? {
                    Ok(heads) => heads,
                    Err(reason) => {
                        self.report.tell(Level::Error, "corrupt-spans", key, format!("row group {group}: {reason}"));
                        continue;
                    }
                };
                if heads.iter().any(|head| head.trace_id.as_ref() == Some(trace.as_bytes())) {
                    is_there = true;
                    looked_at = true;
                    match of_this_object(self.rows_of_trace(file, group, &trace).await)? {
                        Ok(rows) => self.summary.rows += rows,
                        Err(reason) => {
                            self.report.tell(Level::Error, "broken-rows", key, format!("row group {group}: {reason}"))
                        }
                    }
                }
            }
            self.summary.span_files += u64::from(looked_at);
        }
        // One that cannot be found because its file cannot be read is an error that was told.
        match is_there || self.report.counts().errors > 0 {
            true => Ok(()),
            false => Err(Error::NotFound(format!("trace {trace} is not in {}", self.store.location()))),
        }
    }

    async fn rows_of_trace(&self, file: &SpansFile, group: usize, trace: &TraceId) -> Result<u64> {
        let (rows, nodes) = rows_of_trace(&self.reader, file, group, trace).await?;
        let (mut count, mut bytes) = (0, Vec::new());
        for at in (0..rows.rows.len()).filter(|&at| rows.rows[at].trace_id.as_ref() == Some(trace.as_bytes())) {
            bytes.clear();
            nodes.row(&rows, at, &mut bytes)?;
            count += 1;
        }
        Ok(count)
    }
}
