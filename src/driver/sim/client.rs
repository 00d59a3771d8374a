//! The test's side of a simulation: clients, time and faults.
//!
//! Stands outside of the walk of a request: it plays everyone a server meets. A [`SimClient`] is
//! cheap to clone and outlives its connection, so that what came back can be looked at afterwards.
//!
//! Invariant: nothing a test does here is seen by the loop before the next turn.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use super::world::{Client, World};

/// A handle of the whole simulation.
#[derive(Clone)]
pub struct Sim {
    world: Rc<RefCell<World>>,
}

/// One client of the simulated server.
#[derive(Clone)]
pub struct SimClient {
    world: Rc<RefCell<World>>,
    index: usize,
}

impl Sim {
    pub(super) fn new(world: Rc<RefCell<World>>) -> Sim {
        Sim { world }
    }

    /// A client connects to a listener (by number) over a Unix socket and sends `bytes`.
    pub fn connect(&self, listener: usize, bytes: &[u8]) -> SimClient {
        self.connect_from(listener, None, bytes)
    }

    /// A client with an address connects and sends `bytes`. It is reset at once when the listener
    /// was removed.
    pub fn connect_from(
        &self,
        listener: usize,
        address: Option<SocketAddr>,
        bytes: &[u8],
    ) -> SimClient {
        let mut world = self.world.borrow_mut();
        let index = world.clients.len();
        let is_refused = world.listeners[listener].is_removed;
        world.clients.push(Client {
            address,
            window: usize::MAX,
            was_reset_by_server: is_refused,
            ..Client::default()
        });
        if !is_refused {
            world.listeners[listener].backlog.push_back(index);
        }
        drop(world);
        let client = SimClient { world: Rc::clone(&self.world), index };
        client.send(bytes);
        client
    }

    /// Rings the loop's bell without an eventfd. (A real one given to `watch_bell` is heard as
    /// well.)
    pub fn ring_bell(&self) {
        self.world.borrow_mut().rings += 1;
    }

    /// Virtual time, nanoseconds; 0 at start.
    pub fn now_ns(&self) -> u64 {
        self.world.borrow().now_ns
    }

    /// Lets time pass without a turn.
    pub fn advance(&self, by: Duration) {
        let mut world = self.world.borrow_mut();
        let now_ns = world.now_ns.saturating_add(by.as_nanos() as u64);
        world.set_clock(now_ns);
    }

    /// Calls `hook` with the new time whenever it moves: to set the clock of the loop under test.
    /// It must not call the simulation.
    pub fn on_clock(&self, hook: impl FnMut(u64) + 'static) {
        self.world.borrow_mut().clock_hook = Some(Box::new(hook));
    }

    /// A wait in which nothing comes ends after this long: a kernel may wake a loop for no reason.
    pub fn nap_at_most(&self, wait: Duration) {
        self.world.borrow_mut().nap_max = Some(wait);
    }

    /// Does something when the loop has waited until then.
    pub fn after(&self, delay: Duration, action: impl FnOnce(&Sim) + 'static) {
        let mut world = self.world.borrow_mut();
        let due_ns = world.now_ns.saturating_add(delay.as_nanos() as u64);
        world.schedule.push((due_ns, Box::new(action)));
    }

    /// The next `count` accepts fail with this errno. `ENFILE` (table full) waits for a client and
    /// drops it, all others fail at once, as the kernel's do.
    pub fn fail_accepts(&self, errno: i32, count: usize) {
        self.world.borrow_mut().accept_faults.extend(std::iter::repeat_n(errno, count));
    }

    /// The next `count` receives that could be served fail with this errno.
    pub fn fail_receives(&self, errno: i32, count: usize) {
        self.world.borrow_mut().receive_faults.extend(std::iter::repeat_n(errno, count));
    }

    /// The next `count` file operations fail with this errno (`ENOSPC`).
    pub fn fail_files(&self, errno: i32, count: usize) {
        self.world.borrow_mut().file_faults.extend(std::iter::repeat_n(errno, count));
    }

    /// Every turn from now on fails: the ring is broken.
    pub fn break_ring(&self, errno: i32) {
        self.world.borrow_mut().broken = Some(errno);
    }

    /// The last turn had nothing to return and nothing is scheduled: only time, a client or the
    /// bell can make something happen.
    pub fn is_quiet(&self) -> bool {
        let world = self.world.borrow();
        world.is_quiet && world.queue.is_empty() && world.rings == 0
    }

    /// Accepts armed on a listener now.
    pub fn accepts_armed(&self, listener: usize) -> usize {
        self.world.borrow().listeners[listener].armed.len()
    }

    /// Connections open in the loop's view.
    pub fn connections_open(&self) -> usize {
        self.world.borrow().slots.iter().filter(|slot| slot.view.open).count()
    }

    /// Rules the loop broke, when the configuration does not panic.
    pub fn violations(&self) -> Vec<String> {
        self.world.borrow().violations.clone()
    }

    /// What is wrong at the end of a test: rules broken, buffers not given back, operations still
    /// armed, connections not closed.
    pub fn leftovers(&self) -> Vec<String> {
        self.world.borrow().leftovers()
    }

    /// Ends a test.
    ///
    /// # Panics
    /// When there are [`Sim::leftovers`].
    pub fn finish(&self) {
        let left = self.leftovers();
        assert!(left.is_empty(), "left behind:\n{}", left.join("\n"));
    }
}

impl SimClient {
    fn with<T>(&self, what: impl FnOnce(&mut Client) -> T) -> T {
        what(&mut self.world.borrow_mut().clients[self.index])
    }

    /// Sends bytes that arrive together. False when the server has closed: nothing was sent, and
    /// the client is told by a reset.
    pub fn send(&self, bytes: &[u8]) -> bool {
        self.with(|client| {
            if client.server_has_closed && !bytes.is_empty() {
                client.was_reset_by_server = true;
                return false;
            }
            if !bytes.is_empty() {
                client.segments.push_back(bytes.iter().copied().collect());
            }
            true
        })
    }

    /// Sends bytes cut at these places: each part arrives by itself.
    pub fn send_cut(&self, bytes: &[u8], places: &[usize]) -> bool {
        let mut from = 0;
        for place in places.iter().copied().chain([bytes.len()]) {
            if !self.send(&bytes[from..place]) {
                return false;
            }
            from = place;
        }
        true
    }

    /// Sends every byte by itself.
    pub fn send_bytewise(&self, bytes: &[u8]) -> bool {
        bytes.chunks(1).all(|byte| self.send(byte))
    }

    /// Sends no more, but still reads (a half-close).
    pub fn shut_down(&self) {
        self.with(|client| client.is_shut = true);
    }

    /// Closes: the server reads what was sent and then the end; what it sends fails with `EPIPE`.
    pub fn close(&self) {
        self.with(|client| {
            client.is_shut = true;
            client.is_closed = true;
        });
    }

    /// Resets: the server's receive and send fail with `ECONNRESET`.
    pub fn reset(&self) {
        self.with(|client| {
            client.is_reset = true;
            client.segments.clear();
        });
    }

    /// Takes only so many more bytes, then stalls (a slow reader). `usize::MAX` ends the stall.
    pub fn set_window(&self, bytes: usize) {
        self.with(|client| client.window = bytes);
    }

    /// Breaks with this errno after so many more bytes: a send that got some of them out is short.
    pub fn break_after(&self, bytes: usize, errno: i32) {
        self.with(|client| client.breaks_after = Some((bytes, errno)));
    }

    /// All bytes that came from the server.
    pub fn received(&self) -> Vec<u8> {
        self.with(|client| client.received.clone())
    }

    /// Takes what came from the server since the last call.
    pub fn take_received(&self) -> Vec<u8> {
        self.with(|client| std::mem::take(&mut client.received))
    }

    /// Whether the server sees this client: accepted and not closed.
    pub fn is_served(&self) -> bool {
        self.with(|client| client.slot.is_some())
    }

    /// The end of the stream was seen: the server closed, or shut its writing side down.
    pub fn sees_end(&self) -> bool {
        self.with(|client| client.server_has_closed || client.server_has_shut)
    }

    /// The server closed its end.
    pub fn sees_close(&self) -> bool {
        self.with(|client| client.server_has_closed)
    }

    /// The server closed over bytes it had not read, or before this client's bytes came: a real
    /// client may have lost the end of its answer.
    pub fn was_reset(&self) -> bool {
        self.with(|client| client.was_reset_by_server)
    }

    /// Bytes on their way to the server.
    pub fn unread_bytes(&self) -> usize {
        self.with(|client| client.segments.iter().map(|segment| segment.len()).sum())
    }
}
