//! Memory of the process: glibc keeps freed pages and opens a heap per thread, which would leave the process as large as
//! its busiest moment. Other allocators need none of this.

/// Limits the number of glibc's heaps, before any other thread runs.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "glibc has a C interface only")]
pub(super) fn limit_heaps(most: usize) {
    let most = libc::c_int::try_from(most).unwrap_or(libc::c_int::MAX);
    // SAFETY: it takes two numbers (mallopt(3)), and no other thread runs yet.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, most) };
}

/// Returns freed pages to the system twice a minute, for as long as the process runs.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "glibc has a C interface only")]
pub(super) async fn trim_heaps() {
    loop {
        tokio::time::sleep(std::time::Duration::from_secs(30)).await;
        // SAFETY: it takes a number, is safe in any thread, and touches free memory only (malloc_trim(3)).
        let trim = || unsafe { libc::malloc_trim(0) };
        let _ = tokio::task::spawn_blocking(trim).await;
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(super) fn limit_heaps(_: usize) {}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(super) async fn trim_heaps() {
    std::future::pending().await
}
