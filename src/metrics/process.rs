//! What the process itself uses, read from Linux's `/proc`; elsewhere the gauges stay 0.

use super::table::Table;

/// Reads the gauges of the process.
pub(crate) fn refresh(table: &Table) {
    // Small files that the kernel makes up: reading them waits for no disk.
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.split_whitespace().next())
            .and_then(|number| number.parse::<i64>().ok())
            .unwrap_or_default()
    };
    table.resident_bytes.set(field("VmRSS:") * 1024);
    table.threads.set(field("Threads:"));
    let files = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    table.open_files.set(files as i64);
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let limit = limit.and_then(|limit| i64::try_from(limit).ok());
    table.max_files.set(limit.unwrap_or(-1));
    table.cpu_seconds.set(cpu_seconds().unwrap_or_default());
}

/// User and system time of all threads: fields 14 and 15 of `/proc/self/stat` (proc(5)), after the name in brackets.
fn cpu_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / rustix::param::clock_ticks_per_second() as f64)
}
