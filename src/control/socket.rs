//! The server's side of the control socket.
//!
//! One task accepts; each client is a task that reads its line, tells it onwards, and writes the
//! answer when there is one.
//!
//! Invariants: clients are bounded in number, their request in bytes and time. The socket's mode
//! keeps other users out; its file is removed when the server ends.

use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, oneshot};

use super::place;
use super::wire::{Answer, REQUEST_BYTES_MAX, Request};

/// Clients at once; more wait in the socket's backlog.
const CLIENTS_MAX: usize = 16;
/// How long a client may take to send its line, and to take its answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Answers one request, once.
#[derive(Debug)]
pub struct Reply(oneshot::Sender<Answer>);

impl Reply {
    /// It was done.
    pub fn succeed(self, text: impl Into<String>) {
        self.send(Answer::Done(text.into()));
    }

    /// It was not done.
    pub fn fail(self, message: &str, hint: &str, text: &str) {
        let (message, hint, text) = (message.to_owned(), hint.to_owned(), text.to_owned());
        self.send(Answer::Refused { message, hint, text });
    }

    fn send(self, answer: Answer) {
        // A client that did not wait has no use for it.
        let _ = self.0.send(answer);
    }
}

/// A bound control socket. Dropped, its file is removed, if it is still there.
#[derive(Debug)]
pub struct ControlSocket {
    path: PathBuf,
    /// Where it belongs once the server before this one has handed over.
    later: Option<PathBuf>,
    /// Device and inode of the file.
    file: (u64, u64),
    listener: Option<std::os::unix::net::UnixListener>,
}

impl ControlSocket {
    /// Binds to a path that no living server answers on.
    ///
    /// # Errors
    /// `AddrInUse` when one does; what `bind(2)` and `chmod(2)` say.
    pub fn bind(path: &Path) -> io::Result<ControlSocket> {
        if path.exists() && place::remove_if_dead(path, None) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let listener = Some(std::os::unix::net::UnixListener::bind(path)?);
        let facts = std::fs::symlink_metadata(path)?;
        let file = (facts.dev(), facts.ino());
        let socket = ControlSocket { path: path.to_owned(), later: None, file, listener };
        // Until this line the umask keeps others out, or the folder does, which is the owner's
        // alone unless the operator chose another.
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        Ok(socket)
    }

    /// Binds beside a path on which another server answers, until that has handed over.
    ///
    /// # Errors
    /// As [`bind`](ControlSocket::bind).
    pub fn bind_beside(path: &Path) -> io::Result<ControlSocket> {
        let mut beside = path.as_os_str().to_owned();
        beside.push(format!(".{}", std::process::id()));
        let mut socket = ControlSocket::bind(Path::new(&beside))?;
        socket.later = Some(path.to_owned());
        Ok(socket)
    }

    /// The other server has handed over: this one answers where that did.
    ///
    /// # Errors
    /// As `rename(2)`; it stays where it is.
    pub fn take_place(&mut self) -> io::Result<()> {
        if let Some(path) = self.later.take() {
            std::fs::rename(&self.path, &path)?;
            self.path = path;
        }
        Ok(())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Starts to listen, in the runtime that this is called in; each request is told to `ask`.
    ///
    /// # Errors
    /// The runtime takes no more descriptors.
    pub fn serve(&mut self, ask: impl Fn(Request, Reply) + 'static) -> io::Result<()> {
        let Some(listener) = self.listener.take() else { return Ok(()) };
        listener.set_nonblocking(true)?;
        let listener = UnixListener::from_std(listener)?;
        let ask = Rc::new(ask);
        tokio_uring::spawn(async move {
            let places = Arc::new(Semaphore::new(CLIENTS_MAX));
            loop {
                // The semaphore is never closed.
                let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
                match listener.accept().await {
                    Ok((stream, _)) => {
                        let ask = Rc::clone(&ask);
                        tokio_uring::spawn(async move {
                            let _place = place;
                            if let Err(error) = talk(stream, &*ask).await {
                                tracing::debug!("control socket: {error}");
                            }
                        });
                    }
                    Err(error) => {
                        tracing::warn!("control socket: {error}");
                        tokio::time::sleep(PATIENCE).await;
                    }
                }
            }
        });
        Ok(())
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        // Not one that a successor put in its place.
        let is_still = std::fs::symlink_metadata(&self.path)
            .is_ok_and(|facts| (facts.dev(), facts.ino()) == self.file);
        if is_still {
            // Gone already, or in a folder that this user may no longer write to: the next server
            // removes it.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// One client, from its request to the answer's last byte.
async fn talk(mut stream: UnixStream, ask: &dyn Fn(Request, Reply)) -> io::Result<()> {
    let line = tokio::time::timeout(PATIENCE, read_line(&mut stream)).await??;
    let answer = match Request::parse(&line) {
        None => Answer::Refused {
            message: format!("the server knows no request `{}`", line.trim_end()),
            hint: "client and server should be of one version".to_owned(),
            text: String::new(),
        },
        Some(request) => {
            let (sender, receiver) = oneshot::channel();
            ask(request, Reply(sender));
            receiver.await.unwrap_or_else(|_| Answer::Refused {
                message: "the server ends".to_owned(),
                hint: String::new(),
                text: String::new(),
            })
        }
    };
    tokio::time::timeout(PATIENCE, stream.write_all(&answer.encode())).await??;
    stream.shutdown().await
}

async fn read_line(stream: &mut UnixStream) -> io::Result<String> {
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') && line.len() < REQUEST_BYTES_MAX {
        let mut byte = [0];
        if stream.read(&mut byte).await? == 0 {
            break;
        }
        line.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&line).into_owned())
}
