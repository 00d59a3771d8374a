//! The seats segment of a pool (signatures).
use std::io;
use std::os::fd::BorrowedFd;
/// Seats segment of a pool: made by the supervisor, shared by its loops, mapped by its workers.
#[derive(Debug)]
pub struct SeatTable;
#[allow(clippy::unimplemented, missing_docs)]
impl SeatTable {
    pub fn create(_seats: u32) -> io::Result<Self> {
        unimplemented!()
    }
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        unimplemented!()
    }
}
