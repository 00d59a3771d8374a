//! Workers that crash: how often one is started again before any was READY, and what an operator
//! is told of an end that nobody asked for.
//!
//! Beside the walk of a request. Once a worker was READY a crash never ends the server: its place
//! is filled again after a wait (`back_off.rs`). Before, it may be that the application can only
//! crash, and somebody waits at a deployment for an answer.
//!
//! Invariants: a worker that says why it cannot serve, or that hangs, has not crashed. Workers that
//! crash side by side, none of them started behind another's crash, count as one: a server with
//! many workers is as patient as one with a single one.

use std::fs;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use super::fault::Fault;
use super::preload::Ending;
use super::worker::{Phase, Worker};
use crate::config::Config;
use crate::sys::process::signals;

/// Crashes of a pool.
#[derive(Debug)]
pub struct Crashes {
    most: u32,
    /// Before any worker was READY, and when the last one of them was counted.
    at_start: u32,
    counted: Option<Instant>,
    oom_kills: OomKills,
}

impl Crashes {
    /// None yet. A check is for seeing what happens: it does not try again.
    pub fn new(config: &Config) -> Crashes {
        Crashes {
            most: if config.check { 0 } else { config.crashes_max },
            at_start: 0,
            counted: None,
            oom_kills: OomKills::find(),
        }
    }

    /// A worker ended before any was READY. Logs a crash that is to be tried again.
    ///
    /// # Errors
    /// `fault`, if it is no crash or one too many.
    pub fn at_start(&mut self, worker: &Worker, status: Ending, fault: Fault) -> Result<(), Fault> {
        if !matches!(worker.phase, Phase::Booting | Phase::Loading) {
            return Err(fault);
        }
        if self.counted.is_none_or(|counted| worker.started > counted) {
            self.at_start += 1;
            self.counted = Some(Instant::now());
        }
        let (count, most) = (self.at_start, self.most);
        if count > most {
            return Err(match most {
                0 => fault,
                _ => Fault {
                    message: format!("{fault}, {count} times in a row (--max-crashes {most})"),
                    ..fault
                },
            });
        }
        let Worker { number, pid, .. } = worker;
        tracing::error!(
            "worker {number} (pid {pid}) crashed before it was ready: {status}; it is started \
             again ({count} of --max-crashes {most})"
        );
        self.advise(worker, status);
        Ok(())
    }

    /// Says on a line of its own what an end that nobody asked for may come from.
    pub fn advise(&mut self, worker: &Worker, ending: Ending) {
        let Some(status) = ending.exit_status() else { return };
        let is_oom = status.signal() == Some(signals::KILL) && self.oom_kills.rose();
        // Whom the server killed, it said why.
        if worker.was_killed() || matches!(worker.phase, Phase::Failing(_) | Phase::Overdue) {
            return;
        }
        if let Some(hint) = hint(status, is_oom) {
            tracing::error!("hint: {hint}");
        }
    }
}

/// A wait in words, and how many workers died young in a row.
pub fn outlook(wait: Duration, young_deaths: u32) -> String {
    let when = if wait.is_zero() { "at once".to_owned() } else { format!("in {wait:?}") };
    match young_deaths {
        0 | 1 => format!("the next starts {when}"),
        deaths => format!("the next starts {when} ({deaths} died young in a row)"),
    }
}

fn hint(status: ExitStatus, is_oom: bool) -> Option<String> {
    let Some(signal) = status.signal() else {
        return Some("the application or a library of its called os._exit() or exit()".to_owned());
    };
    match signal {
        signals::KILL if is_oom => Some(
            "the kernel killed a process of this control group for want of memory (oom_kill rose): \
             raise its limit, start fewer --workers, or bound them by --max-rss"
                .to_owned(),
        ),
        signals::KILL => Some(
            "somebody sent it KILL; if that was the kernel for want of memory, `dmesg` says so"
                .to_owned(),
        ),
        signals::SYS => {
            Some("a system call is forbidden to it: see the seccomp profile".to_owned())
        }
        signals::SEGV | signals::BUS | signals::ILL | signals::FPE | signals::ABRT => {
            let core = if status.core_dumped() {
                "a core was dumped, /proc/sys/kernel/core_pattern says where"
            } else {
                "for a core dump raise the limit of core files (ulimit -c, LimitCORE=)"
            };
            Some(format!(
                "a native module crashed; the stacks of its Python threads are above; {core}"
            ))
        }
        _ => None,
    }
}

/// How many processes of the server's control group the kernel killed for want of memory.
#[derive(Debug)]
struct OomKills {
    /// `memory.events`, or `memory.oom_control` of version 1; `None`: there is none to read.
    file: Option<PathBuf>,
    seen: u64,
}

impl OomKills {
    fn find() -> OomKills {
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let file = candidates(&groups).into_iter().find(|file| count(file).is_ok());
        let seen = file.as_deref().and_then(|file| count(file).ok()).unwrap_or(0);
        OomKills { file, seen }
    }

    /// Whether there was one since the last look.
    fn rose(&mut self) -> bool {
        // A group that went away kills nobody any more.
        let now = self.file.as_deref().and_then(|file| count(file).ok()).unwrap_or(self.seen);
        now > std::mem::replace(&mut self.seen, now)
    }
}

/// Where the count may be: below the group that `/proc/self/cgroup` names, or, in a container whose
/// own group is mounted as the root, there.
fn candidates(groups: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let (mounts, file) = match controllers {
            "" => (&["/sys/fs/cgroup", "/sys/fs/cgroup/unified"][..], "memory.events"),
            list if list.split(',').any(|name| name == "memory") => {
                (&["/sys/fs/cgroup/memory"][..], "memory.oom_control")
            }
            _ => continue,
        };
        for mount in mounts {
            let relative = path.trim_start_matches('/');
            files.push(Path::new(mount).join(relative).join(file));
            files.push(Path::new(mount).join(file));
        }
    }
    files
}

fn count(file: &Path) -> io::Result<u64> {
    let text = fs::read_to_string(file)?;
    count_in(&text).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no oom_kill in it"))
}

fn count_in(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_are_counted_by_either_version_of_control_groups() {
        assert_eq!(
            count_in("low 0\nhigh 0\nmax 9\noom 3\noom_kill 2\noom_group_kill 0\n"),
            Some(2)
        );
        assert_eq!(count_in("oom_kill_disable 0\nunder_oom 0\noom_kill 7\n"), Some(7));
        assert_eq!(count_in("oom_kill_disable 0\nunder_oom 0\n"), None);
        let files = candidates("4:memory:/a/b\n3:cpu,cpuacct:/\n0::/c\n");
        let expected = [
            "/sys/fs/cgroup/memory/a/b/memory.oom_control",
            "/sys/fs/cgroup/memory/memory.oom_control",
            "/sys/fs/cgroup/c/memory.events",
            "/sys/fs/cgroup/memory.events",
            "/sys/fs/cgroup/unified/c/memory.events",
            "/sys/fs/cgroup/unified/memory.events",
        ];
        assert_eq!(files, expected.map(PathBuf::from));
    }

    #[test]
    fn an_end_is_advised_upon_by_its_cause() {
        let check = |raw: i32, is_oom: bool, part: &str| {
            let found = hint(ExitStatus::from_raw(raw), is_oom).unwrap_or_default();
            assert!(found.contains(part), "{raw}: {found}");
        };
        check(9, false, "dmesg");
        check(9, true, "--max-rss");
        check(11, false, "ulimit -c");
        check(11 | 0x80, false, "core_pattern");
        check(31, false, "seccomp");
        check(3 << 8, false, "os._exit");
        assert_eq!(hint(ExitStatus::from_raw(15), false), None);
    }
}
