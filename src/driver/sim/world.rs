//! The state of a simulation, and the rules the loop must keep.
//!
//! Stands behind [`SimDriver`](super::SimDriver) (which asks) and [`Sim`](super::Sim) (which
//! plays).
//!
//! Invariant: a slot has two states. `view` is what the loop knows: an operation is armed from the
//! call until its completion was *returned*. `accept`, `recv`, `send` are what the kernel does:
//! they may have ended long before. Rules are checked against the view.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use super::SimConfig;
use crate::driver::{After, BufferId, Completion, ConnectionIndex, Counters, Kind, Piece, Token};
use crate::sys::eventfd::EventFd;

/// Something the loop asked for, executed in the next turn.
pub(super) enum Operation {
    Accept { listener: usize, token: Token },
    Recv { token: Token, into: Option<Piece>, wait_all: bool, tries_first: bool },
    Send { token: Token, pieces: [Piece; 2], after: After, checksum: u64 },
    Close { token: Token },
    Shutdown { token: Token },
    Cancel { token: Token },
    CancelAccept { token: Token },
    File { token: Token, file: io::Result<OwnedFd>, piece: Piece, offset: u64, is_write: bool },
}

/// Everything.
pub(super) struct World {
    pub(super) config: SimConfig,
    random: u64,
    pub(super) now_ns: u64,
    pub(super) clock_hook: Option<Box<dyn FnMut(u64)>>,
    /// Longest wait in which nothing comes.
    pub(super) nap_max: Option<std::time::Duration>,
    /// Actions of the test at a time, unordered.
    pub(super) schedule: Vec<(u64, Action)>,
    pub(super) round: u64,
    pub(super) late_in_a_row: u32,
    pub(super) queue: Vec<Operation>,
    pub(super) listeners: Vec<Listener>,
    pub(super) clients: Vec<Client>,
    pub(super) slots: Vec<Slot>,
    /// Shutdowns that a thread of the kernel's runs, and since which round.
    pub(super) shutdowns: Vec<(u64, Token)>,
    /// Completions the loop has not been given yet.
    pub(super) done: VecDeque<Completion>,
    /// Sends whose completion waits in `done`: their memory must still be as it was.
    pub(super) guarded: Vec<(Token, [Piece; 2], u64)>,
    buffers: Vec<BufferState>,
    fresh_peers: Vec<(ConnectionIndex, SocketAddr)>,
    pub(super) bell: Option<EventFd>,
    pub(super) rings: u32,
    pub(super) accept_faults: VecDeque<i32>,
    pub(super) receive_faults: VecDeque<i32>,
    pub(super) file_faults: VecDeque<i32>,
    pub(super) broken: Option<i32>,
    pub(super) is_quiet: bool,
    pub(super) counters: Counters,
    pub(super) violations: Vec<String>,
}

/// What a test wants to happen later.
pub(super) type Action = Box<dyn FnOnce(&super::Sim)>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BufferState {
    Free,
    /// Filled, in a completion not returned yet or held by the loop.
    Held,
}

/// A listener and who waits for whom.
#[derive(Default)]
pub(super) struct Listener {
    pub(super) backlog: VecDeque<usize>,
    pub(super) armed: VecDeque<Token>,
    pub(super) is_removed: bool,
}

/// A client's end.
#[derive(Default)]
pub(super) struct Client {
    pub(super) address: Option<SocketAddr>,
    /// Bytes on their way to the server; a receive never crosses from one segment into the next,
    /// and the next arrives one round later.
    pub(super) segments: VecDeque<VecDeque<u8>>,
    pub(super) next_segment_round: u64,
    /// No more bytes will come.
    pub(super) is_shut: bool,
    /// Closed both ways: what the server sends fails.
    pub(super) is_closed: bool,
    pub(super) is_reset: bool,
    pub(super) received: Vec<u8>,
    /// Bytes it still takes before it stalls.
    pub(super) window: usize,
    /// After so many more bytes its connection breaks with this errno.
    pub(super) breaks_after: Option<(usize, i32)>,
    pub(super) slot: Option<ConnectionIndex>,
    /// What it saw of the server.
    pub(super) server_has_shut: bool,
    pub(super) server_has_closed: bool,
    /// The server closed while bytes lay unread: the client may have lost the end of its answer.
    pub(super) was_reset_by_server: bool,
}

/// A slot of the table of connections.
#[derive(Clone, Default)]
pub(super) struct Slot {
    pub(super) view: View,
    pub(super) accept: Option<(usize, Token)>,
    pub(super) client: Option<usize>,
    pub(super) recv: Option<ArmedRecv>,
    pub(super) send: Option<ArmedSend>,
}

#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub(super) struct View {
    pub(super) accepting: bool,
    pub(super) open: bool,
    pub(super) receiving: bool,
    pub(super) sending: bool,
    pub(super) shutting: bool,
    pub(super) closing: bool,
    pub(super) generation: u32,
}

#[derive(Clone, Copy)]
pub(super) struct ArmedRecv {
    pub(super) token: Token,
    pub(super) into: Option<Piece>,
    pub(super) wait_all: bool,
    /// Bytes received so far, with `wait_all`.
    pub(super) taken: usize,
}

#[derive(Clone, Copy)]
pub(super) struct ArmedSend {
    pub(super) token: Token,
    pub(super) pieces: [Piece; 2],
    pub(super) after: After,
    pub(super) checksum: u64,
    pub(super) sent: usize,
}

impl World {
    pub(super) fn new(config: SimConfig) -> World {
        World {
            config,
            random: config.seed,
            now_ns: 0,
            clock_hook: None,
            nap_max: None,
            shutdowns: Vec::new(),
            schedule: Vec::new(),
            round: 1,
            late_in_a_row: 0,
            queue: Vec::new(),
            listeners: Vec::new(),
            clients: Vec::new(),
            slots: vec![Slot::default(); config.connections as usize],
            done: VecDeque::new(),
            guarded: Vec::new(),
            buffers: vec![BufferState::Free; usize::from(config.buffers)],
            fresh_peers: Vec::new(),
            bell: None,
            rings: 0,
            accept_faults: VecDeque::new(),
            receive_faults: VecDeque::new(),
            file_faults: VecDeque::new(),
            broken: None,
            is_quiet: false,
            counters: Counters::default(),
            violations: Vec::new(),
        }
    }

    /// The next pseudo-random number (splitmix64, public domain by its author's statement).
    pub(super) fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn happens(&mut self, chance: u32) -> bool {
        chance > 0 && self.random() % 1000 < u64::from(chance)
    }

    pub(super) fn violation(&mut self, what: String) {
        assert!(!self.config.panics, "the loop broke a rule of the driver: {what}");
        self.violations.push(what);
    }

    // ---- rules, checked at the call

    pub(super) fn add_listener(&mut self) -> usize {
        self.listeners.push(Listener::default());
        self.listeners.len() - 1
    }

    pub(super) fn remove_listener(&mut self, listener: usize) {
        if !self.listeners[listener].armed.is_empty() {
            self.violation(format!("listener {listener} removed with accepts armed"));
        }
        self.listeners[listener].is_removed = true;
        for client in std::mem::take(&mut self.listeners[listener].backlog) {
            self.clients[client].was_reset_by_server = true;
        }
    }

    pub(super) fn check_accept(&mut self, listener: usize, token: Token) {
        if listener >= self.listeners.len() || self.listeners[listener].is_removed {
            self.violation(format!("accept on listener {listener}, which is not there"));
        }
        let Some(slot) = self.slots.get_mut(token.connection as usize) else {
            return self.violation(format!("accept into {token:?}, beyond the table"));
        };
        let view = slot.view;
        let is_free = View { generation: view.generation, ..View::default() } == view;
        slot.view = View {
            accepting: true,
            receiving: true,
            generation: token.generation,
            ..View::default()
        };
        if !is_free {
            self.violation(format!("accept into {token:?}, which is not free: {view:?}"));
        }
        if token.generation >= 1 << 24 {
            self.violation(format!("{token:?}: a generation has 24 bits"));
        }
    }

    pub(super) fn check_open(&mut self, token: Token, what: &str) {
        let view = *self.view(token);
        if !view.open || view.closing || view.generation != token.generation {
            self.violation(format!("{what} on {token:?}, which is not open: {view:?}"));
        }
    }

    /// Allowed also while a last send is under way (a slow reader must not hold it for ever), and
    /// when the close was returned in the batch that the loop is acting upon.
    pub(super) fn check_cancel(&mut self, token: Token) {
        let view = *self.view(token);
        if view.accepting || view.generation != token.generation {
            self.violation(format!("cancel on {token:?}, which is not open: {view:?}"));
        }
    }

    pub(super) fn check_recv(&mut self, token: Token) {
        self.check_open(token, "receive");
        if self.view(token).receiving {
            self.violation(format!("a second receive on {token:?}"));
        }
        self.view(token).receiving = true;
    }

    pub(super) fn check_send(&mut self, token: Token, after: After) {
        self.check_open(token, "send");
        let view = *self.view(token);
        if view.sending {
            self.violation(format!("a second send on {token:?}"));
        }
        if after == After::Close && view.receiving {
            self.violation(format!("a last send on {token:?} beside an armed receive"));
        }
        let view = self.view(token);
        view.sending = true;
        view.closing = after == After::Close;
    }

    pub(super) fn check_close(&mut self, token: Token) {
        self.check_open(token, "close");
        let view = *self.view(token);
        if view.receiving || view.sending || view.shutting {
            self.violation(format!("a close of {token:?} beside armed operations: {view:?}"));
        }
        self.view(token).closing = true;
    }

    /// A piece that must not be empty.
    pub(super) fn check_piece(&mut self, piece: Piece, what: &str) {
        if piece.length == 0 {
            self.violation(format!("{what} of no bytes"));
        }
        self.check_memory(piece);
    }

    pub(super) fn check_memory(&mut self, piece: Piece) {
        if piece.length > 0 && (piece.pointer as usize) < 4096 {
            self.violation(format!("{} bytes at a null pointer", piece.length));
        }
        if piece.length > i32::MAX as usize {
            self.violation(format!("a piece of {} bytes", piece.length));
        }
    }

    /// A shutdown is asked for: it must have ended before the close.
    pub(super) fn check_shutdown(&mut self, token: Token) {
        self.check_open(token, "shutdown");
        self.view(token).shutting = true;
    }

    fn view(&mut self, token: Token) -> &mut View {
        &mut self.slots[token.connection as usize].view
    }

    // ---- buffers

    pub(super) fn take_buffer(&mut self) -> Option<u16> {
        let id = self.buffers.iter().position(|state| *state == BufferState::Free)?;
        self.buffers[id] = BufferState::Held;
        Some(id as u16)
    }

    pub(super) fn check_held(&mut self, buffer: BufferId, what: &str) {
        if self.buffers.get(usize::from(buffer.0)) != Some(&BufferState::Held) {
            self.violation(format!("{what} of {buffer:?}, which the loop does not hold"));
        }
    }

    pub(super) fn recycle(&mut self, buffer: BufferId) {
        self.check_held(buffer, "a recycle");
        if let Some(state) = self.buffers.get_mut(usize::from(buffer.0)) {
            *state = BufferState::Free;
        }
    }

    pub(super) fn buffers_free(&self) -> usize {
        self.buffers.iter().filter(|state| **state == BufferState::Free).count()
    }

    /// Completions that a batch left behind, or that came late.
    pub(super) fn has_more(&self) -> bool {
        !self.done.is_empty()
    }

    pub(super) fn peer(&self, connection: ConnectionIndex) -> Option<SocketAddr> {
        self.fresh_peers.iter().find(|(fresh, _)| *fresh == connection).map(|(_, peer)| *peer)
    }

    // ---- completions

    pub(super) fn complete(&mut self, token: Token, kind: Kind, result: i32) {
        self.done.push_back(Completion { token, kind, result, buffer: None, more: false });
    }

    pub(super) fn forget_peers(&mut self) {
        self.fresh_peers.clear();
    }

    /// Gives a completion to the loop: from now on the operation is not armed any more.
    pub(super) fn hand_over(&mut self, completion: Completion) -> Completion {
        let token = completion.token;
        self.counters.completed += 1;
        match completion.kind {
            Kind::Accepted => {
                self.view(token).accepting = false;
                self.view(token).open = completion.result >= 0;
                let client = self.slots[token.connection as usize].client;
                let address = client.and_then(|client| self.clients[client].address);
                if let Some(address) = address.filter(|_| completion.result >= 0) {
                    self.fresh_peers.push((token.connection, address));
                }
                let is_fault = completion.result < 0 && completion.result != -libc::ECANCELED;
                self.counters.accept_errors += u64::from(is_fault);
            }
            Kind::Received => {
                self.view(token).receiving = false;
                let is_dry = completion.result == -libc::ENOBUFS;
                self.counters.buffers_exhausted += u64::from(is_dry);
            }
            Kind::Sent => self.view(token).sending = false,
            Kind::Closed => {
                let generation = self.view(token).generation;
                *self.view(token) = View { generation, ..View::default() };
            }
            Kind::Bell => self.counters.bells += 1,
            Kind::ShutDown => self.view(token).shutting = false,
            Kind::FileDone | Kind::Cancelled => {}
        }
        completion
    }

    /// What was left behind at the end of a test.
    pub(super) fn leftovers(&self) -> Vec<String> {
        let mut left = self.violations.clone();
        let held = self.buffers.len() - self.buffers_free();
        if held > 0 {
            left.push(format!("{held} buffers were not given back"));
        }
        for (index, slot) in self.slots.iter().enumerate() {
            let view = View { generation: 0, ..slot.view };
            if view != View::default() {
                left.push(format!("slot {index} is not free: {:?}", slot.view));
            }
        }
        if !self.queue.is_empty() {
            left.push(format!("{} operations were never submitted", self.queue.len()));
        }
        if !self.done.is_empty() {
            left.push(format!("{} completions were never taken", self.done.len()));
        }
        left
    }
}
