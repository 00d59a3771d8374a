//! Sockets that systemd passes: `LISTEN_FDS`, `LISTEN_PID`, `LISTEN_FDNAMES` (sd_listen_fds(3)).
//!
//! Parsing only; that they are listening stream sockets is found out by `supervisor/listeners.rs`.
//!
//! The variables are for the process that `LISTEN_PID` names. A server that takes over from a
//! running one (USR2) has another process id: it is given the sockets by that one, and reads here
//! under which numbers and names they are known.

use super::said::Environment;
use super::{ConfigError, limits};

/// The first number that is passed (SD_LISTEN_FDS_START).
const FIRST: i32 = 3;
/// Set by a server for its successor, see `supervisor/upgrade.rs`.
pub const UPGRADE: &str = "RINGHORN_UPGRADE";

/// A socket that systemd passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassedSocket {
    /// Its number.
    pub number: i32,
    /// `FileDescriptorName=`, or the name of the socket unit; empty if nothing was said.
    pub name: String,
}

/// Sockets that were passed to this process, in order.
///
/// # Errors
/// The variables are for this process and make no sense.
pub fn passed(environment: &Environment, pid: u32) -> Result<Vec<PassedSocket>, ConfigError> {
    let filled = |name: &str| environment.get(name).filter(|value| !value.is_empty());
    let Some(count) = filled("LISTEN_FDS") else { return Ok(Vec::new()) };
    let is_ours = filled("LISTEN_PID").is_some_and(|said| said.parse() == Ok(pid));
    if !is_ours && !environment.contains_key(UPGRADE) {
        return Ok(Vec::new());
    }
    let most = limits::LISTENERS_MAX;
    let count: usize = count.parse().ok().filter(|count| *count <= most).ok_or_else(|| {
        ConfigError::new(
            format!("LISTEN_FDS in the environment cannot be `{count}`"),
            format!("it is how many sockets are passed, {most} at most"),
        )
    })?;
    let mut names: Vec<&str> =
        filled("LISTEN_FDNAMES").map(|names| names.split(':').collect()).unwrap_or_default();
    if !names.is_empty() && names.len() != count {
        return Err(ConfigError::new(
            format!("LISTEN_FDNAMES has {} names for {count} sockets", names.len()),
            "whoever starts the server passes a name for each socket, or no names",
        ));
    }
    names.resize(count, "");
    let sockets = names.into_iter().zip(FIRST..);
    Ok(sockets.map(|(name, number)| PassedSocket { number, name: name.to_owned() }).collect())
}

/// Numbers of the sockets that have a name.
///
/// # Errors
/// None has it: which names there are.
pub fn named(sockets: &[PassedSocket], name: &str) -> Result<Vec<i32>, ConfigError> {
    let of_name = sockets.iter().filter(|socket| socket.name == name);
    let numbers: Vec<i32> = of_name.map(|socket| socket.number).collect();
    if !numbers.is_empty() {
        return Ok(numbers);
    }
    let hint = if sockets.is_empty() {
        "systemd passes sockets to the service of a socket unit (tuning/systemd/ringhorn.socket)"
            .to_owned()
    } else {
        let names: Vec<String> =
            sockets.iter().map(|socket| format!("`{}`", socket.name)).collect();
        format!(
            "passed were {}; FileDescriptorName= in the socket unit is the name",
            names.join(", ")
        )
    };
    Err(ConfigError::new(format!("cannot listen on fd://{name}: no socket of that name"), hint))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> Environment {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn shown(pairs: &[(&str, &str)]) -> Result<Vec<(i32, String)>, ConfigError> {
        let sockets = passed(&of(pairs), 42)?;
        Ok(sockets.into_iter().map(|socket| (socket.number, socket.name)).collect())
    }

    #[test]
    fn for_this_process_only() {
        assert_eq!(shown(&[]), Ok(vec![]));
        assert_eq!(shown(&[("LISTEN_FDS", "1")]), Ok(vec![]));
        assert_eq!(shown(&[("LISTEN_FDS", "1"), ("LISTEN_PID", "41")]), Ok(vec![]));
        assert_eq!(shown(&[("LISTEN_FDS", "x"), ("LISTEN_PID", "41")]), Ok(vec![]));
        let ours = [("LISTEN_FDS", "1"), ("LISTEN_PID", "42")];
        assert_eq!(shown(&ours), Ok(vec![(3, String::new())]));
        let upgrade = [("LISTEN_FDS", "1"), ("LISTEN_PID", "41"), (UPGRADE, "7")];
        assert_eq!(shown(&upgrade), Ok(vec![(3, String::new())]));
    }

    #[test]
    fn names() {
        let pairs =
            [("LISTEN_FDS", "3"), ("LISTEN_PID", "42"), ("LISTEN_FDNAMES", "web:admin:web")];
        let sockets = passed(&of(&pairs), 42).unwrap();
        assert_eq!(named(&sockets, "web"), Ok(vec![3, 5]));
        assert_eq!(named(&sockets, "admin"), Ok(vec![4]));
        assert!(named(&sockets, "other").unwrap_err().hint.contains("`admin`"));
        assert!(named(&[], "other").unwrap_err().hint.contains("socket unit"));
    }

    #[test]
    fn refuses() {
        for (count, names) in [("x", ""), ("-1", ""), ("9999", ""), ("2", "a"), ("1", "a:b")] {
            let pairs = [("LISTEN_FDS", count), ("LISTEN_PID", "42"), ("LISTEN_FDNAMES", names)];
            assert!(shown(&pairs).is_err(), "{count} {names}");
        }
    }
}
