//! Small records the kernel reads or writes while an operation runs: they must not move.
//!
//! Stands under accepts (peer addresses) and sends of two pieces (message headers).
//!
//! Invariants: a record keeps its address from its first use to the pool's drop; it is handed out
//! to one operation at a time; the pool grows to the most that ever ran at once and no further.

use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::ptr::NonNull;

use crate::driver::Piece;

/// Records of one kind at fixed addresses, named by number.
pub(super) struct PinnedPool<T> {
    records: Vec<NonNull<T>>,
    free: Vec<u32>,
}

impl<T: Default> PinnedPool<T> {
    pub(super) fn new() -> PinnedPool<T> {
        PinnedPool { records: Vec::new(), free: Vec::new() }
    }

    /// Hands a record out.
    pub(super) fn take(&mut self) -> u32 {
        if let Some(index) = self.free.pop() {
            return index;
        }
        let record = Box::leak(Box::new(T::default()));
        self.records.push(NonNull::from(record));
        (self.records.len() - 1) as u32
    }

    /// Takes a record back: its operation has completed.
    pub(super) fn give_back(&mut self, index: u32) {
        debug_assert!(!self.free.contains(&index), "record {index} given back twice");
        self.free.push(index);
    }

    /// Its address, valid until the pool drops.
    pub(super) fn address(&self, index: u32) -> *mut T {
        self.records[index as usize].as_ptr()
    }

    /// Never frees the records: the kernel may still use them.
    pub(super) fn leak(&mut self) {
        self.records.clear();
    }

    /// Records handed out now.
    #[cfg(test)]
    pub(super) fn in_use(&self) -> usize {
        self.records.len() - self.free.len()
    }
}

impl<T> Drop for PinnedPool<T> {
    fn drop(&mut self) {
        for record in &self.records {
            // SAFETY: made by `Box::leak` in `take` and freed only here. The driver drops its pools
            // after the ring is quiet, so the kernel uses none of them any more.
            drop(unsafe { Box::from_raw(record.as_ptr()) });
        }
    }
}

/// A message header and the two pieces it points to.
pub(super) struct SendHeader {
    message: libc::msghdr,
    pieces: [libc::iovec; 2],
}

impl Default for SendHeader {
    fn default() -> SendHeader {
        // SAFETY: msghdr and iovec are plain C data for which all zeroes mean null and 0.
        unsafe { MaybeUninit::zeroed().assume_init() }
    }
}

impl SendHeader {
    /// Fills the record at `header` and returns the address of its message.
    ///
    /// # Safety
    /// `header` was handed out by a pool to this operation alone and stays there until it
    /// completes.
    pub(super) unsafe fn fill(header: *mut SendHeader, pieces: [Piece; 2]) -> *const libc::msghdr {
        let pieces = pieces.map(|piece| libc::iovec {
            iov_base: piece.pointer.cast_mut().cast(),
            iov_len: piece.length,
        });
        // SAFETY: the caller alone has the record; raw writes, because the kernel reads it later.
        unsafe {
            (&raw mut (*header).pieces).write(pieces);
            (&raw mut (*header).message.msg_iov).write((&raw mut (*header).pieces).cast());
            (&raw mut (*header).message.msg_iovlen).write(2);
            &raw const (*header).message
        }
    }
}

/// Where an accept writes its peer's address.
pub(super) struct PeerAddress {
    storage: libc::sockaddr_storage,
    length: libc::socklen_t,
}

impl Default for PeerAddress {
    fn default() -> PeerAddress {
        // SAFETY: sockaddr_storage is plain C data for which all zeroes mean AF_UNSPEC.
        unsafe { MaybeUninit::zeroed().assume_init() }
    }
}

impl PeerAddress {
    /// Readies the record for an accept: addresses of the storage and of its length.
    ///
    /// # Safety
    /// As [`SendHeader::fill`].
    pub(super) unsafe fn prepare(
        record: *mut PeerAddress,
    ) -> (*mut libc::sockaddr, *mut libc::socklen_t) {
        // SAFETY: the caller alone has the record; raw writes, because the kernel writes it later.
        unsafe {
            (&raw mut (*record).storage.ss_family).write(libc::AF_UNSPEC as libc::sa_family_t);
            (&raw mut (*record).length).write(size_of::<libc::sockaddr_storage>() as u32);
            ((&raw mut (*record).storage).cast(), &raw mut (*record).length)
        }
    }

    /// What the kernel wrote, when it is an internet address.
    ///
    /// # Safety
    /// The accept has completed; nothing writes to the record.
    pub(super) unsafe fn read(record: *const PeerAddress) -> Option<SocketAddr> {
        // SAFETY: the kernel is done with it (caller), and every bit pattern is a valid record.
        let record = unsafe { &*record };
        let storage = &raw const record.storage;
        match i32::from(record.storage.ss_family) {
            libc::AF_INET => {
                // SAFETY: the family says that the storage holds a sockaddr_in, which is smaller.
                let address = unsafe { &*storage.cast::<libc::sockaddr_in>() };
                let ip = Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr));
                Some(SocketAddr::new(IpAddr::V4(ip), u16::from_be(address.sin_port)))
            }
            libc::AF_INET6 => {
                // SAFETY: the family says that the storage holds a sockaddr_in6, which is smaller.
                let address = unsafe { &*storage.cast::<libc::sockaddr_in6>() };
                let ip = Ipv6Addr::from(address.sin6_addr.s6_addr);
                let port = u16::from_be(address.sin6_port);
                let flow = u32::from_be(address.sin6_flowinfo);
                Some(SocketAddrV6::new(ip, port, flow, address.sin6_scope_id).into())
            }
            _ => None,
        }
    }
}
