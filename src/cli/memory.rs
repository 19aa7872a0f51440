/// Gives back to the system what was freed, for as long as it runs.
///
/// glibc keeps freed pages in its arenas: after a crowd of a thousand slow clients the process would stay as large as the
/// crowd made it, beside a miner that could use the memory. Looked at twice a minute, and left alone while there is little
/// to gain.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub(super) async fn give_back() {
    const WORTH_IT: usize = 8 << 20;
    let at_first = resident();
    loop {
        tokio::time::sleep(std::time::Duration::from_secs(30)).await;
        if resident() > at_first + WORTH_IT {
            // It takes a few milliseconds.
            let _ = tokio::task::spawn_blocking(trim).await;
        }
    }
}

/// Has all threads share a few heaps.
///
/// glibc gives each thread one of its own, up to eight for each processor, and never takes one back: with every thread that
/// ever waited for the disk the process grew by some megabytes.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "glibc offers it to C only")]
pub(super) fn share_heaps(most: usize) {
    let most = libc::c_int::try_from(most).unwrap_or(libc::c_int::MAX);
    // SAFETY: it takes two numbers (mallopt(3)), and no other thread runs yet.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, most) };
}

/// Other allocators have their own ways.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(super) fn share_heaps(_: usize) {}

/// Bytes of memory that are resident; 0 where the system does not say.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn resident() -> usize {
    // In KiB (proc(5)), whatever the size of a page.
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    number.and_then(|kib| kib.parse().ok()).unwrap_or(0) * 1024
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "glibc offers it to C only")]
fn trim() {
    // SAFETY: it takes a number, may be called from any thread at any time, and touches free memory only (malloc_trim(3)).
    unsafe { libc::malloc_trim(0) };
}

/// Other allocators are left to give back by themselves.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(super) async fn give_back() {
    std::future::pending().await
}
