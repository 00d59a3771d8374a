//! Control messages as bytes and back.
//!
//! Not on the walk of a request. The format is described in the module above; every read is bounded
//! by what is left of the message, so no length can lead outside it or make it allocate more.

use super::{
    Changed, ControlError, Ended, Failed, Fork, ForkFailed, Forked, FromWorker, Hello, Interrupt,
    Message, Ready, Setup, Stop, Stuck, TEXT_BYTES_MAX, ToWorker, Why, WornOut,
};
use crate::running::Tenure;

const HELLO: u8 = 1;
const READY: u8 = 2;
const FAILED: u8 = 3;
const SETUP: u8 = 16;
const STOP: u8 = 17;
const WORN_OUT: u8 = 20;
const CHANGED: u8 = 21;
const FORKED: u8 = 40;
const FORK_FAILED: u8 = 41;
const ENDED: u8 = 42;
const FORK: u8 = 43;
const INTERRUPT: u8 = 30;
const STUCK: u8 = 31;

impl Message for FromWorker {
    fn encode(&self, into: &mut Vec<u8>) {
        let mut fields = Encoder { into };
        match self {
            FromWorker::Hello(hello) => {
                fields.byte(HELLO);
                fields.number(hello.version.into());
                fields.number(hello.layout_hash);
                fields.text(&hello.implementation);
                fields.text(&hello.python_version);
                fields.number(hello.pid.into());
            }
            FromWorker::Ready(ready) => {
                fields.byte(READY);
                fields.number(ready.threads.into());
                fields.byte(ready.one_lock.into());
            }
            FromWorker::Failed(failed) => {
                fields.byte(FAILED);
                fields.number(u64::from(failed.exit_code as u32));
                fields.text(tail_of(&failed.text, TEXT_BYTES_MAX));
            }
            FromWorker::WornOut(worn_out) => {
                fields.byte(WORN_OUT);
                fields.number(worn_out.requests);
            }
            FromWorker::Changed(changed) => {
                fields.byte(CHANGED);
                fields.text(tail_of(&changed.path, TEXT_BYTES_MAX));
            }
            FromWorker::Forked(forked) => {
                fields.byte(FORKED);
                fields.number(forked.worker.into());
                fields.number(forked.pid.into());
            }
            FromWorker::ForkFailed(failed) => {
                fields.byte(FORK_FAILED);
                fields.number(failed.worker.into());
                fields.text(tail_of(&failed.text, TEXT_BYTES_MAX));
            }
            FromWorker::Ended(ended) => {
                fields.byte(ENDED);
                fields.number(ended.worker.into());
                fields.optional(ended.status.map(u64::from));
            }
            FromWorker::Stuck(stuck) => {
                fields.byte(STUCK);
                fields.number(stuck.seat.into());
                fields.tenure(stuck.tenure);
            }
        }
    }

    fn decode(bytes: &[u8]) -> Result<Self, ControlError> {
        let mut fields = Decoder { rest: bytes };
        let message = match fields.byte("kind")? {
            HELLO => FromWorker::Hello(Hello {
                version: fields.narrow("version")?,
                layout_hash: fields.number("layout hash")?,
                implementation: fields.text("implementation")?,
                python_version: fields.text("python version")?,
                pid: fields.narrow("pid")?,
            }),
            READY => FromWorker::Ready(Ready {
                threads: fields.narrow("threads")?,
                one_lock: fields.flag("one lock")?,
            }),
            FAILED => FromWorker::Failed(Failed {
                exit_code: fields.narrow::<u32>("exit code")? as i32,
                text: fields.text("text")?,
            }),
            WORN_OUT => FromWorker::WornOut(WornOut { requests: fields.number("requests")? }),
            CHANGED => FromWorker::Changed(Changed { path: fields.text("path")? }),
            FORKED => FromWorker::Forked(Forked {
                worker: fields.narrow("worker")?,
                pid: fields.narrow("pid")?,
            }),
            FORK_FAILED => FromWorker::ForkFailed(ForkFailed {
                worker: fields.narrow("worker")?,
                text: fields.text("text")?,
            }),
            ENDED => FromWorker::Ended(Ended {
                worker: fields.narrow("worker")?,
                status: fields.optional("status")?,
            }),
            STUCK => {
                FromWorker::Stuck(Stuck { seat: fields.narrow("seat")?, tenure: fields.tenure()? })
            }
            _ => return Err(ControlError::Malformed("kind")),
        };
        fields.end()?;
        Ok(message)
    }
}

impl Message for ToWorker {
    fn encode(&self, into: &mut Vec<u8>) {
        let mut fields = Encoder { into };
        match self {
            ToWorker::Setup(setup) => {
                fields.byte(SETUP);
                fields.setup(setup);
            }
            ToWorker::Stop(stop) => {
                fields.byte(STOP);
                fields.byte(stop.graceful.into());
            }
            ToWorker::Fork(fork) => {
                fields.byte(FORK);
                fields.number(fork.worker.into());
            }
            ToWorker::Interrupt(interrupt) => {
                fields.byte(INTERRUPT);
                fields.byte(interrupt.why as u8);
                fields.number(interrupt.seat.into());
                fields.tenure(interrupt.tenure);
                fields.number(interrupt.grace_ms.into());
                fields.text(&interrupt.request);
                fields.text(&interrupt.request_id);
            }
        }
    }

    fn decode(bytes: &[u8]) -> Result<Self, ControlError> {
        let mut fields = Decoder { rest: bytes };
        let message = match fields.byte("kind")? {
            SETUP => ToWorker::Setup(Box::new(fields.setup()?)),
            STOP => ToWorker::Stop(Stop { graceful: fields.flag("graceful")? }),
            FORK => ToWorker::Fork(Fork { worker: fields.narrow("worker")? }),
            INTERRUPT => ToWorker::Interrupt(Box::new(Interrupt {
                why: why(fields.byte("why")?)?,
                seat: fields.narrow("seat")?,
                tenure: fields.tenure()?,
                grace_ms: fields.narrow("grace")?,
                request: fields.text("request")?,
                request_id: fields.text("request id")?,
            })),
            _ => return Err(ControlError::Malformed("kind")),
        };
        fields.end()?;
        Ok(message)
    }
}

fn why(byte: u8) -> Result<Why, ControlError> {
    [Why::Timeout, Why::Slow, Why::ClientLeft]
        .into_iter()
        .find(|why| *why as u8 == byte)
        .ok_or(ControlError::Malformed("why"))
}

/// The last `bytes` of a text, from a character's start: the end of a traceback says what happened.
fn tail_of(text: &str, bytes: usize) -> &str {
    let mut from = text.len().saturating_sub(bytes);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    &text[from..]
}

struct Encoder<'a> {
    into: &'a mut Vec<u8>,
}

impl Encoder<'_> {
    fn byte(&mut self, value: u8) {
        self.into.push(value);
    }

    fn number(&mut self, value: u64) {
        self.into.extend_from_slice(&value.to_le_bytes());
    }

    fn optional(&mut self, value: Option<u64>) {
        self.byte(value.is_some().into());
        if let Some(value) = value {
            self.number(value);
        }
    }

    fn text(&mut self, value: &str) {
        // A text of 4 GiB would be refused by the bound on the whole message.
        self.into.extend_from_slice(&(value.len() as u32).to_le_bytes());
        self.into.extend_from_slice(value.as_bytes());
    }

    fn tenure(&mut self, tenure: Tenure) {
        self.number(tenure.event_loop.into());
        self.number(tenure.slot.into());
        self.number(tenure.epoch);
    }

    fn setup(&mut self, setup: &Setup) {
        self.text(&setup.application);
        self.number(setup.pythonpath.len() as u64);
        setup.pythonpath.iter().for_each(|folder| self.text(folder));
        self.byte(setup.chdir.is_some().into());
        if let Some(folder) = &setup.chdir {
            self.text(folder);
        }
        self.number(setup.threads.into());
        self.number(setup.first_seat.into());
        self.number(setup.generation.into());
        self.number(setup.worker.into());
        self.byte(setup.multiprocess.into());
        self.byte(setup.check_only.into());
        self.optional(setup.cpu.map(u64::from));
        self.optional(setup.paired_loop.map(u64::from));
        self.number(setup.loops.into());
        self.text(&setup.server_software);
        self.number(setup.options.len() as u64);
        for (name, value) in &setup.options {
            self.text(name);
            self.text(value);
        }
    }
}

struct Decoder<'a> {
    rest: &'a [u8],
}

impl<'a> Decoder<'a> {
    fn take(&mut self, bytes: usize, what: &'static str) -> Result<&'a [u8], ControlError> {
        let (taken, rest) =
            self.rest.split_at_checked(bytes).ok_or(ControlError::Malformed(what))?;
        self.rest = rest;
        Ok(taken)
    }

    fn byte(&mut self, what: &'static str) -> Result<u8, ControlError> {
        Ok(self.take(1, what)?[0])
    }

    fn flag(&mut self, what: &'static str) -> Result<bool, ControlError> {
        match self.byte(what)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(ControlError::Malformed(what)),
        }
    }

    fn number(&mut self, what: &'static str) -> Result<u64, ControlError> {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(self.take(8, what)?);
        Ok(u64::from_le_bytes(bytes))
    }

    fn narrow<T: TryFrom<u64>>(&mut self, what: &'static str) -> Result<T, ControlError> {
        T::try_from(self.number(what)?).map_err(|_| ControlError::Malformed(what))
    }

    fn optional<T: TryFrom<u64>>(&mut self, what: &'static str) -> Result<Option<T>, ControlError> {
        if self.flag(what)? { self.narrow(what).map(Some) } else { Ok(None) }
    }

    fn text(&mut self, what: &'static str) -> Result<String, ControlError> {
        let mut length = [0; 4];
        length.copy_from_slice(self.take(4, what)?);
        let bytes = self.take(u32::from_le_bytes(length) as usize, what)?;
        String::from_utf8(bytes.to_vec()).map_err(|_| ControlError::Malformed(what))
    }

    /// A count of items, each of which takes at least four bytes: never more than can follow.
    fn count(&mut self, what: &'static str) -> Result<usize, ControlError> {
        let count: usize = self.narrow(what)?;
        if count > self.rest.len() / 4 { Err(ControlError::Malformed(what)) } else { Ok(count) }
    }

    fn tenure(&mut self) -> Result<Tenure, ControlError> {
        Ok(Tenure {
            event_loop: self.narrow("event loop")?,
            slot: self.narrow("slot")?,
            epoch: self.number("epoch")?,
        })
    }

    fn setup(&mut self) -> Result<Setup, ControlError> {
        let application = self.text("application")?;
        let folders = self.count("pythonpath")?;
        let pythonpath = (0..folders).map(|_| self.text("pythonpath")).collect::<Result<_, _>>()?;
        let chdir = if self.flag("chdir")? { Some(self.text("chdir")?) } else { None };
        Ok(Setup {
            application,
            pythonpath,
            chdir,
            threads: self.narrow("threads")?,
            first_seat: self.narrow("first seat")?,
            generation: self.narrow("generation")?,
            worker: self.narrow("worker")?,
            multiprocess: self.flag("multiprocess")?,
            check_only: self.flag("check only")?,
            cpu: self.optional("cpu")?,
            paired_loop: self.optional("paired loop")?,
            loops: self.narrow("loops")?,
            server_software: self.text("server software")?,
            options: {
                let options = self.count("options")?;
                (0..options)
                    .map(|_| Ok((self.text("option")?, self.text("option")?)))
                    .collect::<Result<_, ControlError>>()?
            },
        })
    }

    fn end(&self) -> Result<(), ControlError> {
        if self.rest.is_empty() { Ok(()) } else { Err(ControlError::Malformed("trailing bytes")) }
    }
}
