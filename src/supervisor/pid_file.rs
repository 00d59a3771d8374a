//! `--pid`: the file that says which process the server is.
//!
//! Beside the walk of a request. Whoever reads it finds a whole number or no file: it is written
//! under another name and moved into place. A server holds a lock (flock(2)) on its file for life,
//! and the kernel lets go of it however the server ends. So a file that nobody has locked is of a
//! server that is gone, whichever process has its number by now, or of another program, and is
//! taken over.
//!
//! Invariants: of two servers that start with the same file, one gets it; a file is removed only
//! while it is the one that is locked here.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::fault::{ExitCode, Fault};
use crate::sys::files;

/// Digits of a process id, and more: what else is in a file is not repeated.
const CONTENT_BYTES_MAX: u64 = 20;
/// Others that may come in between before the file system is called unreliable.
const TRIES: u32 = 100;

/// A pid file of this process; removed at drop.
#[derive(Debug)]
pub struct PidFile {
    path: PathBuf,
    /// Holds the lock.
    file: File,
}

/// Why there is no pid file.
enum Refused {
    /// A server that lives has it: its process id, if that can be read.
    Held(String),
    Io(io::Error),
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Refused {
        Refused::Io(error)
    }
}

impl PidFile {
    /// Writes it; a stale one is taken over.
    ///
    /// # Errors
    /// A server that lives has it, or its folder cannot be written to.
    pub fn create(path: &Path) -> Result<PidFile, Fault> {
        let made = Fresh::write(path).map_err(Refused::from).and_then(|fresh| fresh.claim(path));
        made.map_err(|refused| explain(path, refused))
    }

    /// Writes it in place of the one of the server that was followed.
    ///
    /// # Errors
    /// Its folder cannot be written to.
    pub fn replace(path: &Path) -> Result<PidFile, Fault> {
        let made = Fresh::write(path).and_then(|fresh| fresh.move_to(path));
        made.map_err(|error| explain(path, Refused::Io(error)))
    }
}

impl PidFile {
    /// Gives it up without removing it: a successor writes its own in its place.
    pub fn hand_on(mut self) {
        self.path.clear();
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if !is_at(&self.file, &self.path).unwrap_or(false) {
            return;
        }
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!("cannot remove {}: {error}", self.path.display());
        }
    }
}

/// A written and locked file under a name of its own; removed at drop if it was not moved.
struct Fresh {
    path: PathBuf,
    file: Option<File>,
}

impl Fresh {
    fn write(path: &Path) -> io::Result<Fresh> {
        let pid = std::process::id();
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{pid}"));
        let own = PathBuf::from(name);
        // Left by a process of this number that was killed in between.
        match fs::remove_file(&own) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = files::create_new(&own)?;
        let fresh = |file| Fresh { path: own.clone(), file };
        let written = writeln!(file, "{pid}").and_then(|()| files::try_lock(&file));
        let fresh = fresh(Some(file));
        match written? {
            true => Ok(fresh),
            false => Err(io::Error::other("somebody else locked it")),
        }
    }

    /// Puts it where nothing is, or where something stale is.
    fn claim(self, path: &Path) -> Result<PidFile, Refused> {
        for _ in 0..TRIES {
            match fs::hard_link(&self.path, path) {
                // The drop of what is left removes the other name.
                Ok(()) => return Ok(self.at(path)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error.into()),
            }
            let stale = match files::open_to_lock(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                opened => opened?,
            };
            let pid = said_in(&stale);
            if !files::try_lock(&stale)? {
                return Err(Refused::Held(pid));
            }
            // While it is locked here, nobody else takes it for stale; but somebody may have put
            // another in its place before that.
            if !is_at(&stale, path)? {
                continue;
            }
            tracing::info!("taking over the stale pid file {} of process {pid}", path.display());
            return Ok(self.move_to(path)?);
        }
        Err(io::Error::other("others keep writing it").into())
    }

    fn move_to(self, path: &Path) -> io::Result<PidFile> {
        fs::rename(&self.path, path)?;
        Ok(self.at(path))
    }

    fn at(mut self, path: &Path) -> PidFile {
        match self.file.take() {
            Some(file) => PidFile { path: path.to_owned(), file },
            // Taken here only, and `self` ends here.
            None => unreachable!("a pid file without its file"),
        }
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        // Gone if it was moved.
        let _ = fs::remove_file(&self.path);
    }
}

/// Whether an open file is the one at a path.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let ours = file.metadata()?;
    match fs::symlink_metadata(path) {
        Ok(there) => Ok((there.dev(), there.ino()) == (ours.dev(), ours.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// What a pid file says; for messages only.
fn said_in(file: &File) -> String {
    let mut text = String::new();
    // Unreadable or no text is as good as a file that says nothing.
    let _ = file.take(CONTENT_BYTES_MAX).read_to_string(&mut text);
    let text = text.trim();
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if is_number { text.to_owned() } else { "(none is said)".to_owned() }
}

fn explain(path: &Path, refused: Refused) -> Fault {
    let shown = path.display();
    match refused {
        Refused::Held(pid) => Fault::new(
            ExitCode::Configuration,
            format!("--pid {shown}: process {pid} is a server that runs with it"),
            "stop that one, reload it (HUP) or upgrade it (USR2), or name another file",
        ),
        Refused::Io(error) => {
            let hint = match error.kind() {
                io::ErrorKind::PermissionDenied => {
                    "its folder is to be writable for the server's user, which also removes it in \
                     the end: RuntimeDirectory= of systemd makes one"
                }
                io::ErrorKind::NotFound => "create its folder first",
                _ => "name another file",
            };
            let message = format!("--pid {shown}: cannot write it: {error}");
            Fault::new(ExitCode::Configuration, message, hint)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let names = fs::read_dir(folder).unwrap();
        let mut names: Vec<String> =
            names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn written_held_and_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pid");
        let first = PidFile::create(&path).unwrap();
        let own = std::process::id().to_string();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{own}\n"));
        let fault = PidFile::create(&path).unwrap_err();
        assert!(fault.message.contains(&own) && fault.message.contains("runs"), "{fault}");
        assert_eq!(names(folder.path()), ["pid"], "what was refused leaves nothing");
        drop(first);
        assert!(names(folder.path()).is_empty());
    }

    #[test]
    fn a_stale_one_is_taken_over_whoever_has_its_number() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pid");
        for text in ["1\n", "999999999\n", "", "not a number at all, and long", "\u{fffd}\0"] {
            fs::write(&path, text).unwrap();
            let file = PidFile::create(&path).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
            drop(file);
        }
        assert!(names(folder.path()).is_empty());
    }

    #[test]
    fn one_that_is_no_longer_ours_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pid");
        let old = PidFile::create(&path).unwrap();
        let new = PidFile::replace(&path).unwrap();
        drop(old);
        assert!(path.exists());
        drop(new);
        assert!(!path.exists());
        // Somebody removed it meanwhile: nothing to do, and nothing of another's is touched.
        let gone = PidFile::create(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "another's").unwrap();
        drop(gone);
        assert!(path.exists());
    }

    #[test]
    fn of_many_that_start_one_gets_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pid");
        // Each claims from a fresh file of its own, as processes with numbers of their own do.
        for round in 0..20 {
            fs::write(&path, "1\n").unwrap();
            let claims: Vec<_> = (0..8)
                .map(|number| {
                    let (path, own) = (path.clone(), folder.path().join(format!("own{number}")));
                    std::thread::spawn(move || {
                        let file = files::create_new(&own).unwrap();
                        assert!(files::try_lock(&file).unwrap());
                        Fresh { path: own, file: Some(file) }.claim(&path).ok()
                    })
                })
                .collect();
            let claims: Vec<_> = claims.into_iter().map(|claim| claim.join().unwrap()).collect();
            assert_eq!(claims.iter().flatten().count(), 1, "round {round}");
        }
    }

    #[test]
    fn explains() {
        let folder = tempfile::tempdir().unwrap();
        let fault = PidFile::create(&folder.path().join("no/pid")).unwrap_err();
        assert!(fault.hint.contains("folder"), "{}", fault.hint);
        let fault = PidFile::create(folder.path()).unwrap_err();
        assert!(fault.message.contains("cannot write it"), "{fault}");
    }
}
