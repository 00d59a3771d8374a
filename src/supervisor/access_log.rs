//! The access log's writer: batches of lines, written by the control plane's ring.
//!
//! Last step of the walk of a request. Records come up the loops' report channels and are formatted
//! on the supervisor's thread; one task writes what has gathered while it wrote the batch before.
//!
//! Invariants: at most [`PENDING_BYTES_MAX`] bytes wait; beyond, lines are dropped and counted (a
//! full disk or a stuck pipe never costs a request), and the count is logged.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;

use super::error_log::{append, cannot_open};
use super::fault::{ExitCode, Fault};
use crate::config::LogTarget;
use crate::log::moment::unix_seconds;
use crate::log::{AccessFormat, AccessRecord, Moment};
use crate::sys::local_time;

/// Formatted bytes that may wait for the file.
const PENDING_BYTES_MAX: usize = 1 << 20;
/// Written without a wait up to here at exit.
const LAST_WRITE_TIMEOUT: Duration = Duration::from_secs(2);

/// The access log.
#[derive(Debug)]
pub struct AccessLog {
    target: LogTarget,
    format: AccessFormat,
    shared: Rc<Shared>,
    /// The local offset from UTC and the quarter of an hour it was asked for: it changes on
    /// quarters.
    offset: (i64, i32),
}

#[derive(Debug)]
struct Shared {
    pending: RefCell<Pending>,
    /// Lines came, or the file changed.
    work: Notify,
    /// Everything is written.
    idle: Notify,
}

#[derive(Debug, Default)]
struct Pending {
    bytes: Vec<u8>,
    lines_dropped: u64,
    /// To be used from the next batch on.
    file: Option<File>,
    is_writing: bool,
}

impl AccessLog {
    /// Opens the target and starts the writer on the runtime that this is called in.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn open(target: LogTarget, format: AccessFormat) -> Result<AccessLog, Fault> {
        let file = open(&target)?;
        let pending = Pending { file: Some(file), ..Pending::default() };
        let shared = Rc::new(Shared {
            pending: RefCell::new(pending),
            work: Notify::new(),
            idle: Notify::new(),
        });
        tokio_uring::spawn(write(Rc::clone(&shared)));
        Ok(AccessLog { target, format, shared, offset: (i64::MIN, 0) })
    }

    /// Opens the file again, after a log rotation moved it away (USR1).
    ///
    /// # Errors
    /// It cannot be opened; the old one stays in use.
    pub fn reopen(&self) -> Result<(), Fault> {
        self.shared.pending.borrow_mut().file = Some(open(&self.target)?);
        Ok(())
    }

    /// Formats a record and hands it to the writer.
    pub fn record(&mut self, record: &AccessRecord, worker_pid: u32) {
        let moment = Moment::new(record.started, self.offset_at(record.started));
        let mut pending = self.shared.pending.borrow_mut();
        if pending.bytes.len() >= PENDING_BYTES_MAX {
            pending.lines_dropped += 1;
            return;
        }
        self.format.write(record, worker_pid, moment, &mut pending.bytes);
    }

    /// Wakes the writer, after a batch of records.
    pub fn flush(&self) {
        self.shared.work.notify_one();
    }

    /// Waits until everything is written, or for as long as an exit may take.
    pub async fn finish(&self) {
        self.flush();
        let written = async {
            loop {
                let idle = self.shared.idle.notified();
                {
                    let pending = self.shared.pending.borrow();
                    if pending.bytes.is_empty() && !pending.is_writing {
                        return;
                    }
                }
                idle.await;
            }
        };
        if tokio::time::timeout(LAST_WRITE_TIMEOUT, written).await.is_err() {
            tracing::warn!("access log: its target takes no more, the last lines are lost");
        }
    }

    fn offset_at(&mut self, time: SystemTime) -> i32 {
        let quarter = unix_seconds(time).div_euclid(900);
        if self.offset.0 != quarter {
            self.offset = (quarter, local_time::offset_seconds(time));
        }
        self.offset.1
    }
}

fn open(target: &LogTarget) -> Result<File, Fault> {
    match target {
        LogTarget::File(path) => {
            append(path).map_err(|error| cannot_open("access-logfile", path, &error))
        }
        LogTarget::Standard => {
            io::stdout().as_fd().try_clone_to_owned().map(File::from).map_err(|error| {
                let message = format!("--access-logfile -: no standard output: {error}");
                Fault::new(ExitCode::Configuration, message, "name a file, or open descriptor 1")
            })
        }
    }
}

/// The writer: one batch after the other, for the life of the runtime.
async fn write(shared: Rc<Shared>) {
    let mut file: Option<tokio_uring::fs::File> = None;
    let mut batch = Vec::new();
    let mut is_line_cut = false;
    loop {
        let dropped = {
            let mut pending = shared.pending.borrow_mut();
            if let Some(opened) = pending.file.take() {
                file = Some(tokio_uring::fs::File::from_std(opened));
            }
            std::mem::swap(&mut batch, &mut pending.bytes);
            if is_line_cut && !batch.is_empty() {
                // A full disk took half a line: the next one is a line of its own.
                batch.insert(0, b'\n');
            }
            pending.is_writing = !batch.is_empty();
            std::mem::take(&mut pending.lines_dropped)
        };
        if dropped > 0 {
            tracing::warn!("access log: {dropped} lines dropped, its target is too slow");
        }
        if batch.is_empty() {
            shared.idle.notify_waiters();
            shared.work.notified().await;
            continue;
        }
        if let Some(file) = &file {
            let written;
            (batch, written) = write_batch(file, batch).await;
            is_line_cut = match written.checked_sub(1) {
                Some(last) => batch[last] != b'\n',
                None => is_line_cut,
            };
        }
        batch.clear();
        // A burst's batch is not kept for ever.
        batch.shrink_to(PENDING_BYTES_MAX / 16);
    }
}

/// Writes all of it at the file's own position; gives the buffer back, and how much was written.
async fn write_batch(file: &tokio_uring::fs::File, batch: Vec<u8>) -> (Vec<u8>, usize) {
    use tokio_uring::buf::BoundedBuf;
    /// Means "where the file stands": its end for O_APPEND, nothing for a pipe.
    const OWN_POSITION: u64 = u64::MAX;
    let mut batch = batch;
    let mut written = 0;
    while written < batch.len() {
        let (result, slice) = file.write_at(batch.slice(written..), OWN_POSITION).submit().await;
        batch = slice.into_inner();
        match result {
            Ok(0) => return (batch, written),
            Ok(bytes) => written += bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                let lines = batch[written..].iter().filter(|byte| **byte == b'\n').count();
                tracing::warn!("access log: {lines} lines lost: {error}");
                return (batch, written);
            }
        }
    }
    (batch, written)
}
