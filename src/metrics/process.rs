//! What the process itself uses, read from Linux's `/proc`; elsewhere the gauges stay 0.

use rustix::time::{ClockId, clock_gettime};

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
    table.max_files.set(limit.map_or(-1, |limit| limit as i64));
    let cpu = clock_gettime(ClockId::ProcessCPUTime);
    let seconds = cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9;
    table.cpu_seconds.set(seconds);
}
