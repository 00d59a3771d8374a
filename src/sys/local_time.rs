//! The local offset from UTC, which only libc's time zone files know.

use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds that local time is ahead of UTC at a moment; 0 where the zone is unknown.
pub fn offset_seconds(at: SystemTime) -> i32 {
    let Ok(since) = at.duration_since(UNIX_EPOCH) else { return 0 };
    let seconds = since.as_secs() as libc::time_t;
    // SAFETY: localtime_r reads `seconds` and writes `parts`; nobody changes the environment, which
    // it reads for TZ, while the server runs.
    unsafe {
        let mut parts: libc::tm = std::mem::zeroed();
        if libc::localtime_r(&seconds, &mut parts).is_null() { 0 } else { parts.tm_gmtoff as i32 }
    }
}
