//! What the process itself uses, read from where Linux tells it; elsewhere the figures stay 0.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::gauge::Gauge;

#[derive(Default)]
pub(super) struct Process {
    pub(super) resident_bytes: Gauge,
    pub(super) cpu_seconds: Gauge<f64, AtomicU64>,
    pub(super) open_files: Gauge,
    pub(super) most_files: Gauge,
    pub(super) threads: Gauge,
}

impl Process {
    /// Reads them anew.
    pub(super) fn read(&self) {
        // Small files of the kernel's own making: reading them waits for no disk.
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|line| line.split_whitespace().next())
                .and_then(|number| number.parse::<i64>().ok())
                .unwrap_or_default()
        };
        self.resident_bytes.set(field("VmRSS:") * 1024);
        self.threads.set(field("Threads:"));
        let files = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        self.open_files.set(files as i64);
        let most = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        self.most_files
            .set(most.and_then(|most| i64::try_from(most).ok()).unwrap_or(-1));
        self.cpu_seconds.set(cpu_seconds().unwrap_or_default());
    }
}

/// User and system time of all threads: fields 14 and 15 of `/proc/self/stat` (proc(5)), after the name in brackets.
fn cpu_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / rustix::param::clock_ticks_per_second() as f64)
}
