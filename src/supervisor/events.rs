//! What reaches the supervisor: one queue, read by the one task that owns all state.
//!
//! Tasks that wait (for a signal, a socket, a process, a bell) know nothing but their descriptor
//! and this queue. It needs no bound of its own: workers send a handful of messages in their lives,
//! signals and the bell are coalesced by their sources.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use ringhorn_exchange::control::FromWorker;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::fault::{ExitCode, Fault};
use super::upgrade::{Side, Word};
use super::watched::Watched;
use crate::control::{Reply, Request};
use crate::sys::eventfd::EventFd;
use crate::sys::signals;

/// Something happened.
#[derive(Debug)]
pub enum Event {
    /// A signal came.
    Signal(Signal),
    /// A worker said something.
    Said {
        /// Its number.
        worker: u32,
        /// What it said.
        message: FromWorker,
    },
    /// What a worker said is no message.
    Garbled {
        /// Its number.
        worker: u32,
        /// What is wrong with it.
        error: String,
    },
    /// A fork server said something.
    ForkServerSaid {
        /// Its number.
        fork_server: u32,
        /// What it said.
        message: FromWorker,
        /// What came with it.
        descriptors: Vec<OwnedFd>,
    },
    /// What a fork server said is no message.
    ForkServerGarbled {
        /// Its number.
        fork_server: u32,
        /// What is wrong with it.
        error: String,
    },
    /// A worker that waited for its fork server is not wanted any more.
    NotForked {
        /// Its number.
        worker: u32,
    },
    /// A forked worker's process ended a while ago.
    WorkerGone {
        /// Its number.
        worker: u32,
    },
    /// A child ended, ours or an orphan's: the reaper has work.
    ChildEnded,
    /// A loop reported something that waits.
    Reported,
    /// A client of the control socket asks for something.
    Asked(Request, Reply),
    /// A watched file was touched (`--touch-reload`).
    Touched(PathBuf),
    /// Another server of an upgrade said something; `None`: its end of the channel is closed.
    Told {
        /// Which one.
        by: Side,
        /// What.
        word: Option<Word>,
    },
}

/// Signals that the server acts on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Graceful stop.
    Term,
    /// Fast stop.
    Int,
    /// Fast stop.
    Quit,
    /// Reload.
    Hup,
    /// Logs are opened again.
    Usr1,
    /// A new server binary takes over.
    Usr2,
    /// All workers leave; the server stays.
    Winch,
    /// One more worker.
    Ttin,
    /// One worker less.
    Ttou,
}

const SIGNALS: [(SignalKind, Signal); 9] = [
    (SignalKind::terminate(), Signal::Term),
    (SignalKind::interrupt(), Signal::Int),
    (SignalKind::quit(), Signal::Quit),
    (SignalKind::hangup(), Signal::Hup),
    (SignalKind::user_defined1(), Signal::Usr1),
    (SignalKind::user_defined2(), Signal::Usr2),
    (SignalKind::window_change(), Signal::Winch),
    (SignalKind::from_raw(signals::TTIN), Signal::Ttin),
    (SignalKind::from_raw(signals::TTOU), Signal::Ttou),
];

/// Where events are told.
#[derive(Clone, Debug)]
pub struct Events(UnboundedSender<Event>);

impl Events {
    /// Both ends of the queue.
    pub fn queue() -> (Events, UnboundedReceiver<Event>) {
        let (sender, receiver) = unbounded_channel();
        (Events(sender), receiver)
    }

    /// Tells an event; after the supervisor ended there is nobody to tell.
    pub fn tell(&self, event: Event) {
        let _ = self.0.send(event);
    }

    /// Starts to watch signals, children and the loops' bell.
    ///
    /// # Errors
    /// The runtime has no room for a handler or a descriptor.
    pub fn watch(&self, reports_bell: EventFd) -> Result<(), Fault> {
        let watch = || {
            for (kind, name) in SIGNALS {
                self.watch_signal(kind, move || Event::Signal(name))?;
            }
            self.watch_signal(SignalKind::child(), || Event::ChildEnded)?;
            self.watch_bell(reports_bell)
        };
        watch().map_err(|error| {
            let message = format!("cannot watch signals: {error}");
            Fault::new(ExitCode::Runtime, message, "raise the limit of open files (ulimit -n)")
        })
    }

    fn watch_signal(
        &self,
        kind: SignalKind,
        make: impl Fn() -> Event + 'static,
    ) -> std::io::Result<()> {
        let mut stream = signal(kind)?;
        let events = self.clone();
        tokio_uring::spawn(async move {
            while stream.recv().await.is_some() {
                events.tell(make());
            }
        });
        Ok(())
    }

    fn watch_bell(&self, bell: EventFd) -> std::io::Result<()> {
        let watched = Watched::new(&bell)?;
        let events = self.clone();
        tokio_uring::spawn(async move {
            while let Ok(mut ready) = watched.readable().await {
                // Taken before the reports are looked at: a ring during that look wakes again.
                if let Err(error) = bell.take() {
                    return tracing::error!("the bell of the event loops is broken: {error}");
                }
                ready.clear_ready();
                events.tell(Event::Reported);
            }
        });
        Ok(())
    }
}
