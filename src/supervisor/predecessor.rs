//! The server that this one follows (USR2), as `upgrade.rs` describes it.
//!
//! Beside the walk of a request: what was handed over is adopted before anything else is opened.
//!
//! Invariant: it is answered once: `ready`, or why not, or by the end of this process.

use std::os::fd::OwnedFd;
use std::rc::Rc;

use socket2::Socket;

use super::events::Events;
use super::fault::{ExitCode, Fault};
use super::handed_over::HandedOver;
use super::upgrade::{self, Descriptors, Side, Word};
use super::watched::Watched;
use crate::config::Environment;
use crate::config::activation::UPGRADE;
use crate::sys::successor::adopt;

/// See the module.
#[derive(Debug)]
pub struct Predecessor {
    channel: Rc<Socket>,
    sockets: Vec<(String, Socket)>,
    is_answered: bool,
}

impl Predecessor {
    /// Adopts what was handed over. Call it once, before this process opens anything.
    ///
    /// # Errors
    /// The variable is not of a running server's making.
    pub fn from_environment(environment: &Environment) -> Result<Option<Predecessor>, Fault> {
        let Some(text) = environment.get(UPGRADE) else { return Ok(None) };
        let unfit = |what: &str| {
            Fault::new(
                ExitCode::Configuration,
                format!("{UPGRADE} in the environment {what}"),
                "a running server sets it for its successor on USR2: unset it",
            )
        };
        let descriptors = Descriptors::read(text).ok_or_else(|| unfit("makes no sense"))?;
        let open = |number| -> Result<Socket, Fault> {
            let owned: OwnedFd = adopt(number)
                .map_err(|error| unfit(&format!("names descriptor {number}: {error}")))?;
            Ok(Socket::from(owned))
        };
        let channel = open(descriptors.channel)?;
        channel
            .set_nonblocking(true)
            .map_err(|error| unfit(&format!("names no socket: {error}")))?;
        let sockets = descriptors.sockets.into_iter();
        let sockets = sockets.map(|(number, said)| Ok((said, open(number)?)));
        let sockets = sockets.collect::<Result<_, Fault>>()?;
        Ok(Some(Predecessor { channel: Rc::new(channel), sockets, is_answered: false }))
    }

    /// The sockets that it listens on.
    pub fn take_sockets(&mut self) -> HandedOver {
        HandedOver::new(std::mem::take(&mut self.sockets))
    }

    /// Tells it that this server accepts.
    pub fn ready(&mut self, taken: &[usize]) {
        self.answer(&Word::Ready(taken.to_vec()));
    }

    /// Tells it why this server ends.
    pub fn refuse(&mut self, fault: &Fault) {
        self.answer(&Word::refusal(fault));
    }

    fn answer(&mut self, word: &Word) {
        if std::mem::replace(&mut self.is_answered, true) {
            return;
        }
        // A predecessor that is gone needs no answer; its end is told by the channel's.
        if let Err(error) = upgrade::say(&self.channel, word) {
            tracing::debug!("upgrade: the server before this one is gone: {error}");
        }
    }

    /// Watches what it says.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn watch(&self, events: &Events) -> std::io::Result<()> {
        let watched = Watched::new(&*self.channel)?;
        let channel = Rc::clone(&self.channel);
        tokio_uring::spawn(upgrade::listen(watched, channel, Side::Predecessor, events.clone()));
        Ok(())
    }
}
