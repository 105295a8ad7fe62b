//! The Prometheus text format, version 0.0.4. `prometheus-client` writes OpenMetrics, in which the metadata of a counter
//! lack the `_total` that its samples have (and those of an info their `_info`): whoever reads the older format, as
//! `promtool check metrics` and many agents do, would not know them for what they are.

use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

/// What the format calls itself.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// All metrics of a registry.
pub fn of(registry: &Registry) -> String {
    let mut open_metrics = String::new();
    // Writing to a string cannot fail.
    let _ = encode(&mut open_metrics, registry);
    from_open_metrics(&open_metrics)
}

fn from_open_metrics(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 1024);
    let mut help = None;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ').map(|(_, help)| help);
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            let (suffix, kind) = match kind {
                "counter" => ("_total", kind),
                "info" => ("_info", "gauge"),
                _ => ("", kind),
            };
            if let Some(help) = help.take() {
                out.push_str(&format!("# HELP {name}{suffix} {help}\n"));
            }
            out.push_str(&format!("# TYPE {name}{suffix} {kind}\n"));
        } else if !line.starts_with('#') {
            out.push_str(line);
            out.push('\n');
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_of_counters_and_infos_bear_the_name_of_their_samples() {
        let open_metrics = "# HELP a Help of a.\n# TYPE a counter\na_total{x=\"# TYPE\"} 1\n# HELP b Help of b.\n\
             # TYPE b info\nb_info{v=\"1\"} 1\n# HELP c_seconds Help of c.\n# TYPE c_seconds histogram\n\
             # UNIT c_seconds seconds\nc_seconds_sum 0.5\n# EOF\n";
        let text = "# HELP a_total Help of a.\n# TYPE a_total counter\na_total{x=\"# TYPE\"} 1\n# HELP b_info Help of b.\n\
             # TYPE b_info gauge\nb_info{v=\"1\"} 1\n# HELP c_seconds Help of c.\n# TYPE c_seconds histogram\n\
             c_seconds_sum 0.5\n";
        assert_eq!(from_open_metrics(open_metrics), text);
    }
}
