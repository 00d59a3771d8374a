//! When a worker is replaced because it served long enough: by requests, by time, by memory.
//!
//! Beside the walk of a request. The worker itself counts its requests and says so; time and memory
//! are looked at here. Each worker has limits of its own, so that those that were started together
//! are not replaced together.

use std::fmt;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io;
use std::time::Duration;

use crate::config::Config;

/// How often one worker's memory is looked at; the workers take turns. The kernel walks all of a
/// process's pages for it, so it is neither often nor at once. By taste.
pub const MEMORY_STEP: Duration = Duration::from_secs(1);

/// Why a worker is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// A reload.
    Reload,
    /// It served so many requests (`--max-requests`).
    Requests(u64),
    /// It lived so long (`--max-worker-lifetime`).
    Lifetime(Duration),
    /// It holds so many bytes (`--max-rss`).
    Memory(u64),
    /// A request that was interrupted does not unwind (`--interrupt-grace`).
    Stuck,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::Reload => f.write_str("a reload"),
            Why::Requests(requests) => write!(f, "{requests} requests (--max-requests)"),
            Why::Lifetime(lifetime) => write!(f, "{lifetime:.0?} of life (--max-worker-lifetime)"),
            Why::Stuck => f.write_str("a request that hangs (--timeout)"),
            Why::Memory(bytes) => write!(f, "{} MiB of memory (--max-rss)", bytes >> 20),
        }
    }
}

/// What one worker may do before it is replaced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allotment {
    /// Requests.
    pub requests: Option<u64>,
    /// Time since its start.
    pub lifetime: Option<Duration>,
}

impl Allotment {
    /// A new worker's, with its own share of chance.
    pub fn draw(config: &Config) -> Allotment {
        let most = config.lifecycle.requests_jitter.saturating_add(1);
        let requests = config.lifecycle.requests_max.map(|requests| requests + chance() % most);
        // From nine tenths to eleven.
        let lifetime = config
            .lifecycle
            .worker_lifetime
            .map(|lifetime| lifetime.mul_f64(0.9 + 0.2 * fraction()));
        Allotment { requests, lifetime }
    }
}

/// Random bits; the standard library's hasher keys are random.
fn chance() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// At least 0, below 1.
fn fraction() -> f64 {
    (chance() >> 11) as f64 / (1u64 << 53) as f64
}

/// The proportional share of a process in memory: what is shared by n processes counts an nth.
///
/// # Errors
/// The process is gone, or `/proc` does not show it to us.
pub fn pss_bytes(pid: u32) -> io::Result<u64> {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    pss_in(&rollup).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no Pss: in it"))
}

fn pss_in(rollup: &str) -> Option<u64> {
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_is_read_from_the_kernels_lines() {
        let rollup =
            "00400000-7ffd [rollup]\nRss:   9 kB\nPss:          5123 kB\nPss_Dirty: 1 kB\n";
        assert_eq!(pss_in(rollup), Some(5123 * 1024));
        assert_eq!(pss_in("Rss: 9 kB\n"), None);
        assert!(pss_bytes(std::process::id()).unwrap() > 0);
    }

    #[test]
    fn chance_stays_in_its_bounds_and_varies() {
        let drawn: Vec<f64> = (0..100).map(|_| fraction()).collect();
        assert!(drawn.iter().all(|fraction| (0.0..1.0).contains(fraction)));
        assert!(drawn.iter().any(|fraction| *fraction < 0.5));
        assert!(drawn.iter().any(|fraction| *fraction >= 0.5));
    }
}
