//! The loop's connections by number, and who holds which slot of the exchange.
//!
//! Where it stands in the walk of a request: every completion and every news bit is looked up here
//! first. Numbers are given out last-in first-out, so that a quiet loop touches few pages.
//!
//! Invariants: a number is in `free` exactly while its connection's phase is `Free`; a token whose
//! generation is not its connection's is stale and finds nothing.

use crate::connection::{Connection, Phase};
use crate::driver::{ConnectionIndex, Token};

/// The connections of one loop.
#[derive(Debug)]
pub struct Table {
    connections: Vec<Connection>,
    free: Vec<ConnectionIndex>,
    connections_max: usize,
    open: usize,
}

impl Table {
    /// An empty table for at most `connections_max` numbers, armed accepts included.
    pub fn new(connections_max: usize) -> Table {
        Table { connections: Vec::new(), free: Vec::new(), connections_max, open: 0 }
    }

    /// Takes a free number for an accept on `listener`; `None`: the table is full.
    pub fn arm(&mut self, listener: u16) -> Option<Token> {
        let index = match self.free.pop() {
            Some(index) => index,
            None if self.connections.len() < self.connections_max => {
                self.connections.push(Connection::free());
                (self.connections.len() - 1) as ConnectionIndex
            }
            None => return None,
        };
        let connection = &mut self.connections[index as usize];
        connection.arm(listener);
        self.open += 1;
        Some(Token { connection: index, generation: connection.generation })
    }

    /// Gives a number back; nothing is armed on it.
    pub fn retire(&mut self, index: ConnectionIndex) {
        self.connections[index as usize].retire();
        self.free.push(index);
        self.open -= 1;
    }

    /// The connection a completion belongs to, unless it is stale.
    pub fn find(&self, token: Token) -> Option<&Connection> {
        let connection = self.connections.get(token.connection as usize)?;
        let is_current =
            connection.generation == token.generation && connection.phase != Phase::Free;
        is_current.then_some(connection)
    }

    /// The token that operations of this connection carry now.
    pub fn token(&self, index: ConnectionIndex) -> Token {
        Token { connection: index, generation: self.connections[index as usize].generation }
    }

    /// Connections in use, armed accepts included.
    pub fn open(&self) -> usize {
        self.open
    }

    /// Numbers of all connections in use.
    pub fn in_use(&self) -> Vec<ConnectionIndex> {
        (0..self.connections.len() as ConnectionIndex)
            .filter(|index| self[*index].phase != Phase::Free)
            .collect()
    }
}

impl std::ops::Index<ConnectionIndex> for Table {
    type Output = Connection;

    fn index(&self, index: ConnectionIndex) -> &Connection {
        &self.connections[index as usize]
    }
}

impl std::ops::IndexMut<ConnectionIndex> for Table {
    fn index_mut(&mut self, index: ConnectionIndex) -> &mut Connection {
        &mut self.connections[index as usize]
    }
}
