//! Users and groups: looked up by name, taken on for good, or for the opening of a file only.
//!
//! Stands before the walk of a request: `supervisor/privileges.rs` decides, this room asks the
//! kernel.
//!
//! Invariants: [`Credentials::assume`] returns well only after the kernel confirmed that nothing of
//! the former rights is left; it is called while the process has one thread.

use std::ffi::{CStr, CString};
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use super::process::check;

/// A user of this system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Login name.
    pub name: String,
    /// Number.
    pub uid: u32,
    /// Number of its primary group.
    pub gid: u32,
}

/// What a process runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// User: real, effective and saved alike.
    pub uid: u32,
    /// Group, likewise.
    pub gid: u32,
    /// Supplementary groups, which usually hold `gid` too.
    pub groups: Vec<u32>,
}

/// Text that a look-up may need, at most; a group with many members is long.
const LOOKUP_BYTES_MAX: usize = 1 << 20;
/// Supplementary groups of one process: the kernel's own bound (NGROUPS_MAX).
const GROUPS_MAX: usize = 65_536;

/// Finds a user by name; `None`: there is none.
///
/// # Errors
/// As `getpwnam_r(3)`.
pub fn user_by_name(name: &str) -> io::Result<Option<User>> {
    let Ok(name) = CString::new(name) else { return Ok(None) };
    look_up(|entry: &mut libc::passwd, text, bytes, found| {
        // SAFETY: `look_up` hands over valid places; the entry's pointers lead into `text`.
        unsafe { libc::getpwnam_r(name.as_ptr(), entry, text, bytes, found) }
    })
    .map(|entry| entry.map(|(entry, _text)| user_of(&entry)))
}

/// Finds a user by number; `None`: nobody has it.
///
/// # Errors
/// As `getpwuid_r(3)`.
pub fn user_by_id(uid: u32) -> io::Result<Option<User>> {
    look_up(|entry: &mut libc::passwd, text, bytes, found| {
        // SAFETY: as above.
        unsafe { libc::getpwuid_r(uid, entry, text, bytes, found) }
    })
    .map(|entry| entry.map(|(entry, _text)| user_of(&entry)))
}

/// Finds a group's number by name; `None`: there is none.
///
/// # Errors
/// As `getgrnam_r(3)`.
pub fn group_by_name(name: &str) -> io::Result<Option<u32>> {
    let Ok(name) = CString::new(name) else { return Ok(None) };
    look_up(|entry: &mut libc::group, text, bytes, found| {
        // SAFETY: as above.
        unsafe { libc::getgrnam_r(name.as_ptr(), entry, text, bytes, found) }
    })
    .map(|entry| entry.map(|(entry, _text)| entry.gr_gid))
}

/// An entry and the text that its pointers lead into.
type Entry<E> = (E, Vec<libc::c_char>);

/// Calls one of the `get…_r` functions with as much room for text as it wants.
fn look_up<E>(
    mut call: impl FnMut(&mut E, *mut libc::c_char, usize, *mut *mut E) -> i32,
) -> io::Result<Option<Entry<E>>> {
    let mut text: Vec<libc::c_char> = vec![0; 4096];
    loop {
        // SAFETY: passwd and group are plain data for which all zero is valid; read only if found.
        let mut entry: E = unsafe { std::mem::zeroed() };
        let mut found: *mut E = std::ptr::null_mut();
        match call(&mut entry, text.as_mut_ptr(), text.len(), &mut found) {
            0 if found.is_null() => return Ok(None),
            0 => return Ok(Some((entry, text))),
            libc::ERANGE if text.len() < LOOKUP_BYTES_MAX => {
                let more = text.len() * 4;
                text.resize(more, 0);
            }
            // What POSIX lets a look-up say for "no such entry".
            libc::ENOENT | libc::ESRCH => return Ok(None),
            error => return Err(io::Error::from_raw_os_error(error)),
        }
    }
}

fn user_of(entry: &libc::passwd) -> User {
    // SAFETY: a found entry's name is a NUL-terminated text in the buffer, which is still alive.
    let name = unsafe { CStr::from_ptr(entry.pw_name) }.to_string_lossy().into_owned();
    User { name, uid: entry.pw_uid, gid: entry.pw_gid }
}

/// The groups that a user is a member of, `gid` included.
///
/// # Errors
/// The name has a NUL in it, or the user has more groups than a process can.
pub fn groups_of(user: &str, gid: u32) -> io::Result<Vec<u32>> {
    let user = CString::new(user).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut groups = vec![0; 64];
    loop {
        let mut count = groups.len() as i32;
        // SAFETY: the call writes at most `count` groups and says how many there are.
        let result =
            unsafe { libc::getgrouplist(user.as_ptr(), gid, groups.as_mut_ptr(), &mut count) };
        if result >= 0 {
            groups.truncate(result as usize);
            return Ok(groups);
        }
        if groups.len() >= GROUPS_MAX {
            return Err(io::Error::from_raw_os_error(libc::E2BIG));
        }
        let more = (groups.len() * 4).min(GROUPS_MAX);
        groups.resize(more, 0);
    }
}

impl Credentials {
    /// Those of this process. `None`: real, effective and saved ones differ.
    ///
    /// # Errors
    /// As `getresuid(2)`, `getgroups(2)`.
    pub fn current() -> io::Result<Option<Credentials>> {
        let (mut uids, mut gids) = ([0; 3], [0; 3]);
        // SAFETY: each call writes three numbers.
        unsafe {
            let [real, effective, saved] = &mut uids;
            check(libc::getresuid(real, effective, saved))?;
            let [real, effective, saved] = &mut gids;
            check(libc::getresgid(real, effective, saved))?;
        }
        if uids != [uids[0]; 3] || gids != [gids[0]; 3] {
            return Ok(None);
        }
        Ok(Some(Credentials { uid: uids[0], gid: gids[0], groups: current_groups()? }))
    }

    /// Takes them on for the whole process and for good: groups, user, no capability, no gain by
    /// `exec` (`no_new_privs`), closed to debuggers of the same user. Call it while the process
    /// has one thread.
    ///
    /// # Errors
    /// `EPERM`: this process may not. Otherwise what the kernel keeps of the former rights.
    pub fn assume(&self) -> io::Result<()> {
        // SAFETY: plain system calls; the C library tells every thread. Groups go first: a plain
        // user may not change them.
        unsafe {
            check(libc::setgroups(self.groups.len(), self.groups.as_ptr()))?;
            check(libc::setresgid(self.gid, self.gid, self.gid))?;
            check(libc::setresuid(self.uid, self.uid, self.uid))?;
        }
        if self.uid != 0 {
            // A change from one plain user to another (CAP_SETUID) keeps them otherwise.
            capabilities::drop_all()?;
        }
        seal()?;
        self.confirm()
    }

    /// Asks the kernel whether they hold and cannot be left again.
    fn confirm(&self) -> io::Result<()> {
        let mut wanted = self.clone();
        wanted.groups.sort_unstable();
        wanted.groups.dedup();
        let mut held = Credentials::current()?;
        if let Some(held) = &mut held {
            held.groups.sort_unstable();
            held.groups.dedup();
        }
        if held.as_ref() != Some(&wanted) {
            return Err(io::Error::other(format!("the kernel kept {held:?} for {wanted:?}")));
        }
        if self.uid == 0 {
            return Ok(());
        }
        const KEEP: u32 = u32::MAX;
        // SAFETY: plain system calls, which are to be refused.
        let regained = unsafe {
            libc::setresuid(KEEP, 0, KEEP) == 0
                || (self.gid != 0 && libc::setresgid(KEEP, 0, KEEP) == 0)
        };
        if regained || capabilities::has_any()? {
            return Err(io::Error::other("root's rights can be regained"));
        }
        Ok(())
    }

    /// Lets a child take them on before its `exec`, as [`assume`](Credentials::assume) does.
    pub fn assume_in_child(&self, command: &mut Command) {
        let Credentials { uid, gid, groups } = self.clone();
        // SAFETY: the closure runs between fork and exec: plain system calls only, on values made
        // before the fork; nothing is allocated. By the kernel's calls, since the C library's own
        // tell other threads, of which the child has none but whose locks it may have copied.
        unsafe {
            command.pre_exec(move || {
                let done = |result: libc::c_long| check(result as i32);
                done(libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()))?;
                done(libc::syscall(libc::SYS_setresgid, gid, gid, gid))?;
                done(libc::syscall(libc::SYS_setresuid, uid, uid, uid))?;
                check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)).map(drop)
            });
        }
    }

    /// Opens files with their rights while the guard lives.
    ///
    /// # Errors
    /// `EPERM`: this process may not.
    pub fn for_files(&self) -> io::Result<FileRights> {
        let rights = FileRights { groups: current_groups()?, before: ids_for_files() };
        // SAFETY: plain system calls; a refusal of the last two shows in what they then read.
        unsafe {
            check(libc::setgroups(self.groups.len(), self.groups.as_ptr()))?;
            libc::setfsgid(self.gid);
            libc::setfsuid(self.uid);
        }
        if ids_for_files() == (self.uid, self.gid) {
            Ok(rights)
        } else {
            Err(io::Error::from_raw_os_error(libc::EPERM))
        }
    }
}

/// Another user's rights to files, on this thread; its own are back at drop.
#[derive(Debug)]
pub struct FileRights {
    groups: Vec<u32>,
    /// User and group.
    before: (u32, u32),
}

impl Drop for FileRights {
    fn drop(&mut self) {
        // SAFETY: plain system calls back to what was; whoever might leave them may come back.
        unsafe {
            libc::setfsuid(self.before.0);
            libc::setfsgid(self.before.1);
            libc::setgroups(self.groups.len(), self.groups.as_ptr());
        }
    }
}

/// User and group by which this thread opens files: an illegal number changes nothing.
fn ids_for_files() -> (u32, u32) {
    const NOBODY: u32 = u32::MAX;
    // SAFETY: plain system calls that only read when refused.
    unsafe { (libc::setfsuid(NOBODY) as u32, libc::setfsgid(NOBODY) as u32) }
}

fn current_groups() -> io::Result<Vec<u32>> {
    // SAFETY: with room for none, the call only counts.
    let count = check(unsafe { libc::getgroups(0, std::ptr::null_mut()) })?;
    let mut groups = vec![0; count as usize];
    // SAFETY: it writes at most `count` groups.
    let count = check(unsafe { libc::getgroups(count, groups.as_mut_ptr()) })?;
    groups.truncate(count as usize);
    Ok(groups)
}

/// No gain by `exec` for this process and its children (setuid files, file capabilities), and no
/// debugger of the same user: workers run as that user too, and the server holds its listeners.
///
/// # Errors
/// As `prctl(2)`.
pub fn seal() -> io::Result<()> {
    // SAFETY: prctl with these codes only sets a flag of the process.
    unsafe {
        check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
        check(libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0)).map(drop)
    }
}

/// The two calls about capabilities that libc leaves to `libcap`.
mod capabilities {
    use std::io;

    use super::check;

    /// `struct __user_cap_header_struct`.
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }

    /// `struct __user_cap_data_struct`, of which version 3 takes two.
    #[repr(C)]
    #[derive(Clone, Copy, Default)]
    struct Data {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }

    /// `_LINUX_CAPABILITY_VERSION_3`, of this very thread.
    const HEADER: Header = Header { version: 0x2008_0522, pid: 0 };

    pub(super) fn drop_all() -> io::Result<()> {
        let (header, none) = (HEADER, [Data::default(); 2]);
        // SAFETY: the kernel reads a header and two entries.
        let result = unsafe { libc::syscall(libc::SYS_capset, &header, none.as_ptr()) };
        check(result as i32).map(drop)
    }

    pub(super) fn has_any() -> io::Result<bool> {
        let (mut header, mut held) = (HEADER, [Data::default(); 2]);
        // SAFETY: the kernel reads the header and writes two entries.
        let result = unsafe { libc::syscall(libc::SYS_capget, &mut header, held.as_mut_ptr()) };
        check(result as i32)?;
        Ok(held.iter().any(|word| word.effective | word.permitted | word.inheritable != 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_up_users_and_groups() {
        let root = user_by_name("root").unwrap().unwrap();
        assert_eq!((root.uid, root.gid), (0, 0));
        assert_eq!(user_by_id(0).unwrap(), Some(root));
        assert_eq!(group_by_name("root").unwrap(), Some(0));
        for name in ["no such user", "", "a\0b"] {
            assert_eq!(user_by_name(name).unwrap(), None, "{name:?}");
            assert_eq!(group_by_name(name).unwrap(), None, "{name:?}");
        }
        assert_eq!(user_by_id(4_000_000_001).unwrap(), None);
        assert!(groups_of("root", 0).unwrap().contains(&0));
        assert_eq!(groups_of("no such user", 7).unwrap(), [7]);
    }

    #[test]
    fn knows_its_own() {
        let own = Credentials::current().unwrap().expect("a test has one user");
        assert_eq!(ids_for_files(), (own.uid, own.gid));
    }
}
