//! `--touch-reload`: files whose touch is a wish for a reload.
//!
//! Beside the walk of a request. One task looks at all of them twice a second: that sees a file
//! replaced by another and one made or removed, on every file system, at the cost of one system
//! call a file.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::events::{Event, Events};

/// How often files are looked at. By taste: deployment scripts wait for nothing shorter.
const STEP: Duration = Duration::from_millis(500);

/// Watches files, in the runtime that this is called in.
pub fn watch(files: &[PathBuf], events: &Events) {
    if files.is_empty() {
        return;
    }
    let mut seen: Vec<(PathBuf, Option<SystemTime>)> =
        files.iter().map(|file| (file.clone(), modified(file))).collect();
    let events = events.clone();
    tokio_uring::spawn(async move {
        loop {
            tokio::time::sleep(STEP).await;
            for (file, before) in &mut seen {
                let now = modified(file);
                if now != *before {
                    *before = now;
                    events.tell(Event::Touched(file.clone()));
                }
            }
        }
    });
}

/// When the file was last changed; `None`: there is none.
fn modified(file: &Path) -> Option<SystemTime> {
    std::fs::metadata(file).and_then(|facts| facts.modified()).ok()
}
