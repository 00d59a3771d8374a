//! `--user`, `--group`, `--umask`: who the server and its workers run as.
//!
//! Before the walk of a request. What needs root is done first (listeners, rings), then the rights
//! are given up for good, then threads and workers start; they inherit what is left.
//!
//! Invariants: nothing of the user's runs as root: its interpreter is probed with the user's
//! rights, its log files are opened with them. A server that is that user already (a successor
//! after USR2, a service with `User=`) gives up nothing and is sealed all the same.

use std::io;
use std::path::Path;
use std::process::Command;

use super::fault::{ExitCode, Fault};
use crate::config::{Config, LogTarget};
use crate::sys::credentials::{self, Credentials, FileRights};
use crate::sys::files;

/// What becomes of this process's rights.
#[derive(Debug)]
pub struct Privileges {
    /// `None`: neither `--user` nor `--group` was said.
    target: Option<Target>,
}

#[derive(Debug)]
struct Target {
    credentials: Credentials,
    /// For messages: `www (33), group 33`.
    shown: String,
    /// It is that user and group now.
    is_current: bool,
}

impl Privileges {
    /// Sets the umask and looks the user up; nothing else changes yet.
    ///
    /// # Errors
    /// There is no such user or group.
    pub fn find(config: &Config) -> Result<Privileges, Fault> {
        if let Some(mask) = config.umask {
            files::set_umask(mask);
        }
        let current = Credentials::current().map_err(|error| cannot_ask(&error))?;
        let (user, group) = (config.user.as_deref(), config.group.as_deref());
        let group = group.map(|group| group_number("--group", group)).transpose()?;
        let user = user.map(|user| find_user(user, group)).transpose()?;
        let (credentials, shown) = match (user, group) {
            (None, None) => return Ok(Privileges { target: None }),
            (Some((name, uid, gid)), _) => {
                let groups = match &name {
                    Some(name) => {
                        credentials::groups_of(name, gid).map_err(|error| cannot_ask(&error))?
                    }
                    None => vec![gid],
                };
                let name = name.unwrap_or_else(|| "a user without a name".to_owned());
                (Credentials { uid, gid, groups }, format!("{name} ({uid}), group {gid}"))
            }
            (None, Some(gid)) => {
                let uid = current.as_ref().map_or(0, |current| current.uid);
                (Credentials { uid, gid, groups: vec![gid] }, format!("user {uid}, group {gid}"))
            }
        };
        let is_current = current.is_some_and(|current| {
            (current.uid, current.gid) == (credentials.uid, credentials.gid)
        });
        Ok(Privileges { target: Some(Target { credentials, shown, is_current }) })
    }

    /// Nothing changes.
    #[cfg(test)]
    pub fn none() -> Privileges {
        Privileges { target: None }
    }

    /// Who a file of ours is to belong to, if not to this process as it is.
    pub fn owner(&self) -> Option<(u32, u32)> {
        let target = self.change()?;
        Some((target.credentials.uid, target.credentials.gid))
    }

    /// Opens files with the rights that the server will have, while the guard lives.
    ///
    /// # Errors
    /// This process may not change its rights.
    pub fn for_files(&self) -> Result<Option<FileRights>, Fault> {
        let rights = self.change().map(|target| {
            target.credentials.for_files().map_err(|error| cannot_become(target, &error))
        });
        rights.transpose()
    }

    /// Has a child start with the rights that the server will have.
    pub fn assume_in_child(&self, command: &mut Command) {
        if let Some(target) = self.change() {
            target.credentials.assume_in_child(command);
        }
    }

    /// Sees to it that the server can open its log files, now and again after a rotation: one that
    /// only root can create is created and given to the user.
    ///
    /// # Errors
    /// A log file is not the user's to write.
    pub fn give_log_files(&self, config: &Config) -> Result<(), Fault> {
        let access = config.access_log.as_ref().map(|(target, _)| ("access-logfile", target));
        let logs = [Some(("error-logfile", &config.error_log)), access];
        for (option, target) in logs.into_iter().flatten() {
            if let LogTarget::File(path) = target {
                self.give_log_file(option, path)?;
            }
        }
        Ok(())
    }

    fn give_log_file(&self, option: &str, path: &Path) -> Result<(), Fault> {
        let Some(target) = self.change() else { return Ok(()) };
        let opened = {
            let _rights = self.for_files()?;
            super::error_log::append(path)
        };
        // Whatever else is wrong is told by whoever opens it for good.
        if !opened.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied) {
            return Ok(());
        }
        let Credentials { uid, gid, .. } = target.credentials;
        files::create_for(path, uid, gid).map_err(|error| {
            let message =
                format!("--{option}: {} may not write to {}", target.shown, path.display());
            let hint = match error.kind() {
                io::ErrorKind::AlreadyExists => {
                    format!("chown {uid}:{gid} {}, or name another file", path.display())
                }
                _ => format!("it cannot be created either ({error}); name another file"),
            };
            Fault::new(ExitCode::Configuration, message, hint)
        })
    }

    /// Gives the rights up, for good and confirmed.
    ///
    /// # Errors
    /// This process may not change its rights, or the kernel kept some.
    pub fn drop_for_good(&self) -> Result<(), Fault> {
        let Some(target) = &self.target else { return Ok(()) };
        if target.is_current {
            return credentials::seal().map_err(|error| cannot_become(target, &error));
        }
        target.credentials.assume().map_err(|error| cannot_become(target, &error))?;
        tracing::info!("running as {}", target.shown);
        Ok(())
    }

    /// The user to become, if that changes anything.
    fn change(&self) -> Option<&Target> {
        self.target.as_ref().filter(|target| !target.is_current)
    }
}

/// A user's name if it has one, number, and group to run with.
type Found = (Option<String>, u32, u32);

fn find_user(said: &str, group: Option<u32>) -> Result<Found, Fault> {
    let number: Option<u32> = said.parse().ok().filter(|number| *number != u32::MAX);
    let found = match number {
        Some(number) => credentials::user_by_id(number),
        None => credentials::user_by_name(said),
    };
    match (found.map_err(|error| cannot_ask(&error))?, number, group) {
        (Some(user), _, group) => Ok((Some(user.name), user.uid, group.unwrap_or(user.gid))),
        (None, Some(number), Some(group)) => Ok((None, number, group)),
        (None, Some(_), None) => Err(Fault::new(
            ExitCode::Configuration,
            format!("--user {said}: no user has that number, so it has no group"),
            "say --group as well",
        )),
        (None, None, _) => Err(unknown("--user", "user", said, "useradd --system")),
    }
}

/// The number of a user, said by name or number.
///
/// # Errors
/// There is none of that name.
pub fn user_number(place: &str, said: &str) -> Result<u32, Fault> {
    if let Some(number) = said.parse().ok().filter(|number| *number != u32::MAX) {
        return Ok(number);
    }
    let user = credentials::user_by_name(said).map_err(|error| cannot_ask(&error))?;
    user.map(|user| user.uid).ok_or_else(|| unknown(place, "user", said, "useradd --system"))
}

/// The number of a group, said by name or number.
///
/// # Errors
/// There is none of that name.
pub fn group_number(place: &str, said: &str) -> Result<u32, Fault> {
    if let Some(number) = said.parse().ok().filter(|number| *number != u32::MAX) {
        return Ok(number);
    }
    let group = credentials::group_by_name(said).map_err(|error| cannot_ask(&error))?;
    group.ok_or_else(|| unknown(place, "group", said, "groupadd --system"))
}

fn unknown(place: &str, what: &str, said: &str, make: &str) -> Fault {
    Fault::new(
        ExitCode::Configuration,
        format!("{place}: there is no {what} `{said}`"),
        format!("`{make} {said}` makes one, `getent` lists those there are; a number does as well"),
    )
}

fn cannot_ask(error: &io::Error) -> Fault {
    Fault::new(
        ExitCode::Runtime,
        format!("users and groups cannot be looked up: {error}"),
        "check /etc/nsswitch.conf and its services, or say numbers",
    )
}

fn cannot_become(target: &Target, error: &io::Error) -> Fault {
    let may_not = error.kind() == io::ErrorKind::PermissionDenied;
    let hint = if may_not {
        "start the server as root (it needs CAP_SETUID and CAP_SETGID), or leave out --user and \
         --group: it runs as whoever starts it"
    } else {
        "this server does not run with more rights than asked for: please report it"
    };
    Fault::new(
        ExitCode::Configuration,
        format!("--user, --group: cannot run as {}: {error}", target.shown),
        hint,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names() {
        assert_eq!(user_number("--user", "root").unwrap(), 0);
        assert_eq!(group_number("--group", "root").unwrap(), 0);
        assert_eq!(user_number("--user", "4000000001").unwrap(), 4_000_000_001);
        for said in ["no-such-name", "4294967295", "-1", "99999999999"] {
            assert!(user_number("--user", said).is_err(), "{said}");
            assert!(group_number("--group", said).is_err(), "{said}");
        }
        assert_eq!(find_user("root", Some(7)).unwrap(), (Some("root".to_owned()), 0, 7));
        assert_eq!(find_user("4000000001", Some(7)).unwrap(), (None, 4_000_000_001, 7));
        let fault = find_user("4000000001", None).unwrap_err();
        assert!(fault.hint.contains("--group"), "{fault}");
    }
}
