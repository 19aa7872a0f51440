//! Prometheus' text format 0.0.4 from the OpenMetrics text, which is all that the registry writes.

use std::collections::HashMap;
use std::fmt::Write as _;

/// OpenMetrics names a counter without its `_total` and an info without its `_info`, and ends with `# EOF`; the older
/// format names them whole and has no end.
pub(super) fn from_open_metrics(open_metrics: &str) -> String {
    let mut kinds = HashMap::new();
    for line in open_metrics.lines() {
        if let Some((name, kind)) = line
            .strip_prefix("# TYPE ")
            .and_then(|rest| rest.split_once(' '))
        {
            kinds.insert(name, kind);
        }
    }
    let whole = |name: &str| match kinds.get(name) {
        Some(&"counter") => format!("{name}_total"),
        Some(&"info") => format!("{name}_info"),
        _ => name.to_owned(),
    };
    let mut text = String::with_capacity(open_metrics.len() + 256);
    for line in open_metrics.lines() {
        let written = match line.splitn(4, ' ').collect::<Vec<_>>()[..] {
            ["#", "EOF" | "UNIT", ..] => continue,
            ["#", "TYPE", name, "info"] => writeln!(text, "# TYPE {} gauge", whole(name)),
            ["#", word, name, rest] => writeln!(text, "# {word} {} {rest}", whole(name)),
            _ => writeln!(text, "{line}"),
        };
        // Writing to a text cannot fail.
        debug_assert!(written.is_ok());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_and_infos_get_their_whole_names_and_the_end_is_left_out() {
        let open_metrics = "# HELP chats How many.\n# TYPE chats counter\nchats_total{status=\"a b\"} 1\n# HELP build Which.\n# TYPE build info\n\
                            build_info{version=\"1\"} 1\n# HELP size_bytes Now.\n# TYPE size_bytes gauge\n# UNIT size_bytes bytes\nsize_bytes 7\n# EOF\n";
        let text = "# HELP chats_total How many.\n# TYPE chats_total counter\nchats_total{status=\"a b\"} 1\n# HELP build_info Which.\n# TYPE build_info gauge\n\
                    build_info{version=\"1\"} 1\n# HELP size_bytes Now.\n# TYPE size_bytes gauge\nsize_bytes 7\n";
        assert_eq!(from_open_metrics(open_metrics), text);
    }
}
