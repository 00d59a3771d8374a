//! The smallest loop that keeps every rule of the [`Driver`] trait: both back ends are tested with
//! it.
//!
//! Stands in the event loop's place. It answers each line with `echo ` and the line, in two pieces,
//! and keeps the connection; the line `bye` is answered with a linked close when nothing else has
//! arrived.
//!
//! Invariants: those of the trait; every connection's slot is used again with the next generation.

use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use crate::driver::{After, Completion, Driver, Kind, Piece, Token};

/// The loop and its connections.
pub(in crate::driver) struct EchoLoop<D> {
    pub(in crate::driver) driver: D,
    listener: usize,
    connections: Vec<Connection>,
    free: Vec<u32>,
    accepts_armed: usize,
    accepts_wanted: usize,
    /// Receives that found no buffer, first in, first out.
    starving: VecDeque<u32>,
    completions: Vec<Completion>,
    pub(in crate::driver) accept_errors: Vec<i32>,
    pub(in crate::driver) bells: u32,
}

#[derive(Default)]
struct Connection {
    generation: u32,
    is_open: bool,
    is_receiving: bool,
    is_sending: bool,
    /// To be closed once nothing is armed.
    is_over: bool,
    is_closing: bool,
    input: Vec<u8>,
    reply: Vec<u8>,
}

const GREETING: &[u8] = b"echo ";

impl<D: Driver> EchoLoop<D> {
    pub(in crate::driver) fn new(
        mut driver: D,
        listener: BorrowedFd<'_>,
        connections: u32,
    ) -> EchoLoop<D> {
        let listener = driver.add_listener(listener).unwrap();
        let mut this = EchoLoop {
            driver,
            listener,
            connections: (0..connections).map(|_| Connection::default()).collect(),
            free: (0..connections).rev().collect(),
            accepts_armed: 0,
            accepts_wanted: 2,
            starving: VecDeque::new(),
            completions: Vec::new(),
            accept_errors: Vec::new(),
            bells: 0,
        };
        this.arm_accepts();
        this
    }

    pub(in crate::driver) fn turn(&mut self, wait: Option<Duration>) -> io::Result<()> {
        let mut completions = std::mem::take(&mut self.completions);
        completions.clear();
        self.driver.turn(wait, &mut completions)?;
        for completion in &completions {
            self.act(*completion);
        }
        self.completions = completions;
        self.feed_starving();
        self.arm_accepts();
        Ok(())
    }

    /// Accepts no more, cancels everything; done when [`EchoLoop::is_empty`].
    pub(in crate::driver) fn stop(&mut self) {
        self.accepts_wanted = 0;
        for index in 0..self.connections.len() as u32 {
            let token = self.token(index);
            let connection = &mut self.connections[index as usize];
            if connection.is_open && !connection.is_closing {
                connection.is_over = true;
                self.driver.cancel(token);
                self.step(index);
            } else if connection.is_receiving && !connection.is_open {
                self.driver.cancel_accept(token);
            }
        }
    }

    pub(in crate::driver) fn is_empty(&self) -> bool {
        self.free.len() == self.connections.len()
    }

    fn token(&self, index: u32) -> Token {
        Token { connection: index, generation: self.connections[index as usize].generation }
    }

    fn arm_accepts(&mut self) {
        while self.accepts_armed < self.accepts_wanted {
            let Some(index) = self.free.pop() else { break };
            self.connections[index as usize].is_receiving = true;
            self.accepts_armed += 1;
            self.driver.accept(self.listener, self.token(index));
        }
    }

    fn feed_starving(&mut self) {
        for _ in 0..self.driver.buffers_free().min(self.starving.len()) {
            let Some(index) = self.starving.pop_front() else { break };
            self.receive(index);
        }
    }

    fn receive(&mut self, index: u32) {
        let token = self.token(index);
        let connection = &mut self.connections[index as usize];
        if connection.is_open && !connection.is_over && !connection.is_receiving {
            connection.is_receiving = true;
            self.driver.recv(token, true);
        }
    }

    fn act(&mut self, completion: Completion) {
        if completion.kind == Kind::Bell {
            self.bells += 1;
            return;
        }
        let index = completion.token.connection;
        if completion.token != self.token(index) {
            assert_eq!(completion.kind, Kind::Cancelled, "only a cancel may come this late");
            return;
        }
        let connection = &mut self.connections[index as usize];
        match completion.kind {
            Kind::Accepted => {
                self.accepts_armed -= 1;
                connection.is_open = completion.result == 0;
                connection.is_over = self.accepts_wanted == 0;
                if completion.result < 0 {
                    self.accept_errors.push(-completion.result);
                } else if connection.is_over {
                    self.driver.cancel(completion.token);
                }
            }
            Kind::Received => self.on_received(index, completion),
            Kind::Sent => {
                connection.is_sending = false;
                connection.is_over |= completion.result != connection.reply.len() as i32 + 5;
                self.step(index);
            }
            Kind::Closed => self.retire(index),
            Kind::FileDone | Kind::Bell | Kind::Cancelled | Kind::ShutDown => {}
        }
    }

    fn on_received(&mut self, index: u32, completion: Completion) {
        let connection = &mut self.connections[index as usize];
        connection.is_receiving = false;
        if !connection.is_open {
            assert_eq!(completion.result, -libc::ECANCELED, "the accept failed");
            return self.retire(index);
        }
        if completion.result > 0 {
            let buffer = completion.buffer.unwrap();
            let bytes = self.driver.buffer(buffer, completion.result as usize);
            connection.input.extend_from_slice(bytes);
            self.driver.recycle(buffer);
        } else if completion.result == -libc::ENOBUFS {
            // One that is being closed must not wait for a buffer it will never ask for.
            if !connection.is_over {
                return self.starving.push_back(index);
            }
        } else {
            connection.is_over = true;
        }
        self.step(index);
    }

    fn retire(&mut self, index: u32) {
        let connection = &mut self.connections[index as usize];
        let generation = (connection.generation + 1) % (1 << 24);
        *connection = Connection { generation, ..Connection::default() };
        self.free.push(index);
    }

    /// The one place that decides what a connection does next.
    fn step(&mut self, index: u32) {
        let token = self.token(index);
        let connection = &mut self.connections[index as usize];
        if connection.is_sending || connection.is_closing {
            return;
        }
        if connection.is_over {
            if !connection.is_receiving {
                connection.is_closing = true;
                self.driver.close(token);
            }
            return;
        }
        let Some(end) = connection.input.iter().position(|byte| *byte == b'\n') else {
            return self.receive(index);
        };
        connection.reply = connection.input.drain(..=end).collect();
        let is_last =
            connection.reply == b"bye\n" && connection.input.is_empty() && !connection.is_receiving;
        connection.is_sending = true;
        connection.is_closing = is_last;
        let pieces = [GREETING, &connection.reply]
            .map(|bytes| Piece { pointer: bytes.as_ptr(), length: bytes.len() });
        let after = if is_last { After::Close } else { After::Keep };
        // SAFETY: the greeting is static; the reply is not touched before `Sent` or `Closed`.
        unsafe { self.driver.send(token, pieces, after) }
    }
}
