//! What the boundary tests share: a pool in one process, and requests that carry a number through
//! it.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used)]

pub mod traffic;

use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::Arc;

use ringhorn_exchange::{
    BodyEnd, Claim, Geometry, LoopDescriptorsOwned, LoopEnd, MethodId, Protocol, RawPiece,
    RecordFlags, RecordStart, Seat, SeatTable, SlotIndex, WorkerEnd, WorkerSeats,
};

pub use ringhorn_exchange::KeyId;

/// Small rings, so that a few kilobytes go around them.
pub const GEOMETRY: Geometry = Geometry {
    slots: 16,
    seats: 8,
    request_ring_bytes: 16 * 1024,
    response_ring_bytes: 8 * 1024,
    large_rings: 2,
    large_ring_bytes: 16 * 1024,
};

/// A loop's eventfd.
pub fn bell() -> OwnedFd {
    // SAFETY: no pointers; the result is checked and owned by nobody else.
    unsafe {
        let descriptor = libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK);
        assert!(descriptor >= 0);
        OwnedFd::from_raw_fd(descriptor)
    }
}

/// Copies of what a worker would receive over the control socket.
pub fn descriptors(end: &LoopEnd) -> LoopDescriptorsOwned {
    let descriptors = end.descriptors();
    LoopDescriptorsOwned {
        down: descriptors.down.try_clone_to_owned().unwrap(),
        up: descriptors.up.try_clone_to_owned().unwrap(),
        bell: descriptors.bell.try_clone_to_owned().unwrap(),
    }
}

/// One pool: its loops and seats, with generation 1 admitted.
pub struct Pool {
    pub seats: Arc<SeatTable>,
    pub loops: Vec<LoopEnd>,
}

impl Pool {
    pub fn new(loops: u16, geometry: Geometry) -> Pool {
        let seats = Arc::new(SeatTable::create(geometry.seats).unwrap());
        let loops = (0..loops)
            .map(|index| {
                let mut end = LoopEnd::create(index, geometry, Arc::clone(&seats), bell()).unwrap();
                end.set_generations(1, 1);
                end
            })
            .collect();
        Pool { seats, loops }
    }

    /// A worker of generation 1 in this process, known to the loops as number 1 with all seats.
    pub fn worker(&mut self) -> Arc<WorkerEnd> {
        for end in &mut self.loops {
            end.worker_joined(WorkerSeats {
                worker: 1,
                seats: 0..GEOMETRY.seats as u16,
                generation: 1,
                one_lock: false,
                paired: false,
            });
        }
        self.attach(1)
    }

    pub fn attach(&self, generation: u32) -> Arc<WorkerEnd> {
        let loops = self.loops.iter().map(descriptors).collect();
        let seats = self.seats.descriptor().try_clone_to_owned().unwrap();
        Arc::new(WorkerEnd::attach(loops, seats, generation).unwrap())
    }
}

/// A pool of one loop with a seat.
pub fn pool() -> (Pool, Seat) {
    let mut pool = Pool::new(1, GEOMETRY);
    let seat = pool.worker().seat(0, Some(0));
    (pool, seat)
}

/// The slots that a sweep finds news of.
pub fn swept(end: &mut LoopEnd) -> Vec<SlotIndex> {
    let mut news = Vec::new();
    end.sweep(&mut news);
    news
}

/// The head and the rest of response bytes.
pub fn split(bytes: &[u8]) -> (String, Vec<u8>) {
    let at = bytes.windows(4).position(|window| window == b"\r\n\r\n").expect("a whole head") + 4;
    (String::from_utf8(bytes[..at].to_vec()).unwrap(), bytes[at..].to_vec())
}

pub const GET: RecordStart = RecordStart {
    protocol: Protocol::Http11,
    method: MethodId::Get,
    flags: RecordFlags { https: false, head_method: false, body_gathered: true, keep_alive: true },
    content_length: None,
};

/// Reserves a slot with a record for `path`; the body is still open.
pub fn prepare(end: &mut LoopEnd, start: RecordStart, path: &str) -> SlotIndex {
    let slot = end.reserve().expect("a free slot");
    let mut record = end.record(slot);
    record.begin(start);
    record.known(KeyId::REQUEST_METHOD, b"GET");
    record.known(KeyId::PATH_INFO, path.as_bytes());
    record.finish().unwrap();
    slot
}

/// Queues a request without body.
pub fn request(end: &mut LoopEnd, path: &str) -> SlotIndex {
    let slot = prepare(end, GET, path);
    end.finish_body(slot, BodyEnd::Complete);
    end.enqueue(slot, 1).unwrap();
    slot
}

/// The request's path as the worker sees it.
pub fn path_of(claim: &Claim) -> String {
    let path =
        claim.variables().find(|variable| variable.key.bytes() == b"PATH_INFO").expect("a path");
    String::from_utf8(path.value.to_vec()).unwrap()
}

/// Copies and sends everything unsent.
pub fn take_unsent(end: &mut LoopEnd, slot: SlotIndex) -> Vec<u8> {
    let mut bytes = Vec::new();
    for RawPiece { pointer, length } in end.unsent(slot) {
        // SAFETY: the pieces lie in the loop's mapping and were published; the slot is not
        // released.
        bytes.extend_from_slice(unsafe { std::slice::from_raw_parts(pointer, length) });
    }
    end.sent(slot, bytes.len());
    bytes
}
