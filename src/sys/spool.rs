//! Unlinked temporary files for request bodies.
//!
//! Where it stands in the walk of a request: `event_loop/gather.rs`, when a body outgrows its
//! memory.
//!
//! Invariants: the file has no name once it is returned, so that nothing is left behind however the
//! server ends; its mode lets only its owner in, for file systems without nameless files.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// Makes an unlinked file in `dir`, open for reading and writing.
///
/// # Errors
/// What open(2) says: no such folder, no permission, no space, too many open files.
pub fn unlinked_file(dir: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    match options.clone().custom_flags(libc::O_TMPFILE | libc::O_CLOEXEC).open(dir) {
        // File systems without O_TMPFILE: overlayfs before 6.3, NFS, FUSE.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EISDIR)) => {
            named_then_unlinked(&options, dir)
        }
        result => result,
    }
}

fn named_then_unlinked(options: &OpenOptions, dir: &Path) -> io::Result<File> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    // Relaxed: only the uniqueness of the number matters.
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let path = dir.join(format!(".ringhorn-spool-{}-{count}", std::process::id()));
    let file = options.clone().create_new(true).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Seek as _, Write as _};

    #[test]
    fn leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let mut nameless = unlinked_file(dir.path()).unwrap();
        let options = {
            let mut options = OpenOptions::new();
            options.read(true).write(true).mode(0o600);
            options
        };
        let mut named = named_then_unlinked(&options, dir.path()).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        for file in [&mut nameless, &mut named] {
            file.write_all(b"body").unwrap();
            file.rewind().unwrap();
            let mut text = String::new();
            file.read_to_string(&mut text).unwrap();
            assert_eq!(text, "body");
        }
    }
}
