//! The command line that `ps` shows of this process, put elsewhere.
//!
//! Not on the walk of a request. The kernel reads `/proc/PID/cmdline` between two addresses of the
//! process; they are moved to a page of ours (PR_SET_MM_MAP, which needs no privilege), so that
//! arguments and environment stay as they are where the program reads them, and a title may be
//! longer than the arguments were.
//!
//! Invariants: done once, while the process has one thread (the call also restates where the heap
//! ends); the page is never given back, since the kernel reads it at any time.

use std::io;

use super::process::check;

/// Longest title; `ps` itself shows a line.
pub const TITLE_BYTES_MAX: usize = 256;

/// Fields of `/proc/self/stat` (proc(5)), counted from the third, which follows the name in
/// parentheses.
const FIELDS_AFTER_NAME: usize = 3;

/// `struct prctl_mm_map`.
#[repr(C)]
struct MemoryMap {
    start_code: u64,
    end_code: u64,
    start_data: u64,
    end_data: u64,
    start_brk: u64,
    brk: u64,
    start_stack: u64,
    arg_start: u64,
    arg_end: u64,
    env_start: u64,
    env_end: u64,
    auxv: u64,
    auxv_size: u32,
    exe_descriptor: u32,
}

/// The page that holds the title.
#[derive(Debug)]
pub struct TitlePage(&'static mut [u8]);

impl TitlePage {
    /// Moves the command line to a page of its own, with this title. Call it once, while the
    /// process has one thread.
    ///
    /// # Errors
    /// The kernel has no such call (`EINVAL`: built without CONFIG_CHECKPOINT_RESTORE), or a
    /// sandbox refuses it.
    pub fn take(title: &str) -> io::Result<TitlePage> {
        let stat = std::fs::read_to_string("/proc/self/stat")?;
        // The heap's end is not in there; growing it by nothing tells.
        // SAFETY: sbrk(0) moves nothing.
        let heap_end = unsafe { libc::sbrk(0) } as u64;
        let mut page = TitlePage(new_page()?);
        page.write(title);
        let start = page.0.as_ptr() as u64;
        let end = start + page.0.len() as u64;
        let map = memory_map(&stat, heap_end, start, end)
            .ok_or_else(|| io::Error::other("/proc/self/stat is not as it was described"))?;
        // SAFETY: the kernel reads one map of the size that it is told, and checks each address.
        check(unsafe {
            libc::prctl(
                libc::PR_SET_MM,
                libc::PR_SET_MM_MAP,
                &raw const map,
                size_of::<MemoryMap>(),
                0,
            )
        })?;
        Ok(page)
    }

    /// Shows another title; what is too long is cut.
    pub fn write(&mut self, title: &str) {
        // The last byte stays zero: otherwise the kernel reads on into the environment.
        let mut bytes = title.len().min(self.0.len() - 1);
        while !title.is_char_boundary(bytes) {
            bytes -= 1;
        }
        self.0[..bytes].copy_from_slice(&title.as_bytes()[..bytes]);
        self.0[bytes..].fill(0);
    }
}

/// Memory that lives as long as the process.
fn new_page() -> io::Result<&'static mut [u8]> {
    let (protection, flags) =
        (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new anonymous mapping at no stated address touches nobody's memory.
    let page =
        unsafe { libc::mmap(std::ptr::null_mut(), TITLE_BYTES_MAX, protection, flags, -1, 0) };
    if page == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the mapping is new, zeroed, at least as long, and never unmapped.
    Ok(unsafe { std::slice::from_raw_parts_mut(page.cast(), TITLE_BYTES_MAX) })
}

fn memory_map(stat: &str, brk: u64, arg_start: u64, arg_end: u64) -> Option<MemoryMap> {
    // The name may hold spaces and parentheses; the last one ends it.
    let (_, fields) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let field = |number: usize| fields.get(number - FIELDS_AFTER_NAME)?.parse::<u64>().ok();
    Some(MemoryMap {
        start_code: field(26)?,
        end_code: field(27)?,
        start_data: field(45)?,
        end_data: field(46)?,
        start_brk: field(47)?,
        brk,
        start_stack: field(28)?,
        arg_start,
        arg_end,
        env_start: field(50)?,
        env_end: field(51)?,
        auxv: 0,
        auxv_size: 0,
        exe_descriptor: u32::MAX,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_stat_line() {
        let fields: Vec<String> = (3..=52).map(|number| format!("{number}")).collect();
        let stat = format!("7 (a ) name) {}\n", fields.join(" "));
        let map = memory_map(&stat, 1, 2, 3).unwrap();
        let read = [map.start_code, map.end_code, map.start_data, map.end_data, map.start_brk];
        assert_eq!(read, [26, 27, 45, 46, 47]);
        let rest = [map.brk, map.start_stack, map.arg_start, map.arg_end, map.env_start];
        assert_eq!((rest, map.env_end), ([1, 28, 2, 3, 50], 51));
        assert!(memory_map("7 (name) R 1 2", 1, 2, 3).is_none());
    }

    #[test]
    fn titles_are_cut_at_a_letter() {
        let mut page = TitlePage(new_page().unwrap());
        page.write(&"ä".repeat(TITLE_BYTES_MAX));
        assert_eq!(page.0[TITLE_BYTES_MAX - 2..], [0, 0]);
        page.write("short");
        assert_eq!(&page.0[..7], b"short\0\0");
    }
}
