//! USR2: a new server binary takes over from a running one. What the two say to each other.
//!
//! Beside the walk of a request. The running server (`successor.rs`) starts the program by which
//! it was started, with the same arguments and environment, and hands it its listening sockets and
//! one end of a socket pair. The new one (`predecessor.rs`) boots whole and says `ready`; from
//! then on both accept. The old one answers `go`, names the new one to systemd and drains as on
//! TERM. A new one that cannot start says `refused`, or just ends: the old one serves on.
//!
//! | from | says | means |
//! |---|---|---|
//! | new | `ready 0 2` | it accepts; it took the sockets with these numbers |
//! | new | `refused`, then lines: code, message, hint | why it ends |
//! | old | `go` | pid file, socket files and systemd are the new one's |
//!
//! The environment variable [`UPGRADE`](crate::config::activation::UPGRADE) says which descriptors
//! are handed over: the channel's number, then a line `NUMBER=ENDPOINT` for each socket.
//!
//! Invariants: one upgrade at a time; until `ready` nothing that is seen outside changes; the end
//! of the channel's other side is an answer as well.

use std::ffi::OsString;
use std::io::{self, Read as _};
use std::os::fd::RawFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;

use socket2::Socket;

use super::events::{Event, Events};
use super::fault::Fault;
use super::watched::Watched;

/// Longest message: a fault's text is cut to fit.
const MESSAGE_BYTES_MAX: usize = 16 << 10;

/// Who said something on the channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The server that this one follows.
    Predecessor,
    /// The server that is to follow this one.
    Successor,
}

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    /// The new one serves, with these sockets of the old one's.
    Ready(Vec<usize>),
    /// The new one cannot: what and what to do.
    Refused {
        /// One line.
        message: String,
        /// One line; may be empty.
        hint: String,
    },
    /// The new one is the server.
    Go,
}

impl Word {
    /// The refusal that tells of a fault.
    pub fn refusal(fault: &Fault) -> Word {
        let line = |text: &str| -> String {
            text.chars()
                .map(|c| if c == '\n' { ' ' } else { c })
                .take(MESSAGE_BYTES_MAX / 8)
                .collect()
        };
        Word::Refused { message: line(&fault.message), hint: line(&fault.hint) }
    }

    /// As it goes over the channel.
    pub fn write(&self) -> String {
        match self {
            Word::Ready(taken) => {
                let numbers = taken.iter().map(|number| format!(" {number}"));
                format!("ready{}", numbers.collect::<String>())
            }
            Word::Refused { message, hint } => format!("refused\n{message}\n{hint}"),
            Word::Go => "go".to_owned(),
        }
    }

    /// Reads one message; `None`: it is none.
    pub fn read(text: &str) -> Option<Word> {
        if text == "go" {
            return Some(Word::Go);
        }
        if let Some(lines) = text.strip_prefix("refused\n") {
            let (message, hint) = lines.split_once('\n')?;
            return Some(Word::Refused { message: message.to_owned(), hint: hint.to_owned() });
        }
        let numbers = text.strip_prefix("ready")?;
        let numbers = numbers.split_whitespace().map(str::parse).collect::<Result<_, _>>();
        numbers.ok().map(Word::Ready)
    }
}

/// Sends a message; the other side may be gone.
///
/// # Errors
/// As `send(2)`.
pub fn say(channel: &Socket, word: &Word) -> io::Result<()> {
    channel.send(word.write().as_bytes()).map(drop)
}

/// Reads the channel until its end and tells the supervisor.
pub async fn listen(watched: Watched, channel: Rc<Socket>, by: Side, events: Events) {
    let mut bytes = vec![0; MESSAGE_BYTES_MAX];
    loop {
        let Ok(mut ready) = watched.readable().await else { return };
        match (&*channel).read(&mut bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(0) | Err(_) => return events.tell(Event::Told { by, word: None }),
            Ok(count) => {
                let word = std::str::from_utf8(&bytes[..count]).ok().and_then(Word::read);
                match word {
                    Some(word) => events.tell(Event::Told { by, word: Some(word) }),
                    None => tracing::warn!("upgrade: a message of the {by:?} makes no sense"),
                }
            }
        }
    }
}

/// What the environment variable says: the channel, and each socket with its endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptors {
    /// The channel's number.
    pub channel: RawFd,
    /// Number and endpoint of each socket, in order.
    pub sockets: Vec<(RawFd, String)>,
}

impl Descriptors {
    /// As the variable says it.
    pub fn write(&self) -> String {
        let lines = self.sockets.iter().map(|(number, said)| format!("\n{number}={said}"));
        format!("{}{}", self.channel, lines.collect::<String>())
    }

    /// Reads the variable; `None`: it is not of our making, or names a number twice.
    pub fn read(text: &str) -> Option<Descriptors> {
        let mut lines = text.split('\n');
        let channel = lines.next()?.parse().ok()?;
        let socket = |line: &str| {
            let (number, said) = line.split_once('=')?;
            Some((number.parse().ok()?, said.to_owned()))
        };
        let sockets: Vec<(RawFd, String)> = lines.map(socket).collect::<Option<_>>()?;
        let mut numbers: Vec<RawFd> = sockets.iter().map(|(number, _)| *number).collect();
        numbers.push(channel);
        numbers.sort_unstable();
        let are_unique = numbers.windows(2).all(|pair| pair[0] != pair[1]);
        are_unique.then_some(Descriptors { channel, sockets })
    }
}

/// How this server was started, to start its successor in the same way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invocation {
    /// The path, links in it not followed: they may lead to a newer program by then.
    pub program: PathBuf,
    arguments: Vec<OsString>,
}

impl Invocation {
    /// From the command line, program name first.
    ///
    /// # Errors
    /// `/proc` does not say which program this is.
    pub fn of(command_line: &[OsString], search: &str) -> io::Result<Invocation> {
        // Found before anybody replaces the file: then the kernel's answer is of no use.
        let executable = std::env::current_exe()?;
        let named = command_line.first().map(Path::new).unwrap_or(Path::new(""));
        let program = spelled(named, search, &executable).unwrap_or(executable);
        let arguments = command_line.iter().skip(1).cloned().collect();
        Ok(Invocation { program, arguments })
    }

    /// The command that starts it again.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments);
        command
    }
}

/// The path that the program name stands for, if that is this program: a name is whatever the
/// caller of exec wanted it to be.
fn spelled(named: &Path, search: &str, executable: &Path) -> Option<PathBuf> {
    let is_this = |path: &Path| {
        let (there, this) = (path.metadata().ok()?, executable.metadata().ok()?);
        ((there.dev(), there.ino()) == (this.dev(), this.ino())).then(|| path.to_owned())
    };
    if named.components().count() > 1 {
        return std::path::absolute(named).ok().and_then(|path| is_this(&path));
    }
    let folders = std::env::split_paths(search).filter(|folder| folder.is_absolute());
    folders.map(|folder| folder.join(named)).find_map(|path| is_this(&path))
}

#[cfg(test)]
mod tests {
    use super::super::fault::ExitCode;
    use super::*;

    #[test]
    fn words_are_read_as_they_were_written() {
        let refused = Word::Refused { message: "no = good".to_owned(), hint: String::new() };
        for word in [Word::Ready(vec![]), Word::Ready(vec![0, 12]), refused, Word::Go] {
            assert_eq!(Word::read(&word.write()), Some(word));
        }
        for text in ["", "gone", "ready x", "refused", "refused\nx", "Ready 1"] {
            assert_eq!(Word::read(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_refusal_is_bounded_and_in_lines() {
        let fault = Fault::new(ExitCode::Runtime, "a\nb".repeat(1 << 20), "ä".repeat(1 << 20));
        let text = Word::refusal(&fault).write();
        assert!(text.len() <= MESSAGE_BYTES_MAX && text.lines().count() == 3);
        assert!(Word::read(&text).is_some());
    }

    #[test]
    fn descriptors() {
        let sockets = vec![(4, "127.0.0.1:80".to_owned()), (9, "unix:/a=b".to_owned())];
        for sockets in [sockets, vec![]] {
            let descriptors = Descriptors { channel: 7, sockets };
            assert_eq!(Descriptors::read(&descriptors.write()), Some(descriptors));
        }
        for text in ["", "x", "7\n", "7\n4", "7\nx=a", "7\n7=a", "7\n4=a\n4=b"] {
            assert_eq!(Descriptors::read(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_program_is_started_by_the_path_that_named_it() {
        let folder = tempfile::tempdir().unwrap();
        let executable = std::env::current_exe().unwrap();
        let link = folder.path().join("current");
        std::os::unix::fs::symlink(&executable, &link).unwrap();
        let search = folder.path().to_str().unwrap();
        let program = |named: &str, search: &str| {
            let line = [named, "--bind", "x"].map(OsString::from);
            let invocation = Invocation::of(&line, search).unwrap();
            assert_eq!(invocation.arguments, ["--bind", "x"]);
            invocation.program
        };
        assert_eq!(program(link.to_str().unwrap(), ""), link);
        assert_eq!(program("current", search), link);
        // A name that is none of this program's.
        assert_eq!(program("ringhorn", "/usr/bin:/bin"), executable);
        assert_eq!(program("/bin/sh", ""), executable);
        assert_eq!(program("", ""), executable);
    }
}
