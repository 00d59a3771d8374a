//! What was said about the lives of workers: when they are replaced, how, and how many there are.
//!
//! Not on the walk of a request; the supervisor acts by it.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::ConfigError;
use super::resolved::Reader;

/// How a reload replaces the workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReloadStrategy {
    /// One after the other.
    Rolling,
    /// All at once, when every new one is READY.
    All,
}

impl fmt::Display for ReloadStrategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ReloadStrategy::Rolling => "rolling",
            ReloadStrategy::All => "all",
        })
    }
}

/// Where the control socket is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlPlace {
    /// Where clients look by themselves.
    Default,
    /// Here, absolute.
    Path(PathBuf),
    /// There is none.
    None,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Lifecycle {
    /// `--startup-timeout`; zero = any.
    pub startup_timeout: Duration,
    /// `--reload-strategy`.
    pub reload_strategy: ReloadStrategy,
    /// `--touch-reload`, absolute.
    pub touch_files: Vec<PathBuf>,
    /// `--reload`.
    pub reloads_on_change: bool,
    /// `--reload-extra-file`, absolute globs.
    pub extra_globs: Vec<String>,
    /// `--max-requests`; `None` = never.
    pub requests_max: Option<u64>,
    /// `--max-requests-jitter`.
    pub requests_jitter: u64,
    /// `--max-worker-lifetime`; `None` = never.
    pub worker_lifetime: Option<Duration>,
    /// `--max-rss`, bytes; `None` = never.
    pub worker_memory_max: Option<u64>,
    /// `--workers-min`.
    pub workers_min: Option<u32>,
    /// `--workers-max`.
    pub workers_max: Option<u32>,
    /// `--control-socket`.
    pub control: ControlPlace,
}

impl Lifecycle {
    /// Reads what was said.
    ///
    /// # Errors
    /// As the rows' own checks.
    pub(super) fn read(read: &Reader<'_>) -> Result<Lifecycle, ConfigError> {
        let requests_max = read.number("max-requests")?;
        let lifetime = read.seconds("max-worker-lifetime")?;
        let memory = read.bytes("max-rss")?;
        let jitter = match read.optional_number("max-requests-jitter")? {
            Some(said) => said,
            None => requests_max / 10,
        };
        let count = |name: &str| {
            // The row's range ends far below 2^32.
            read.optional_number(name).map(|number| number.map(|number| number as u32))
        };
        let globs = read.said.many("reload-extra-file").into_iter();
        Ok(Lifecycle {
            startup_timeout: read.seconds("startup-timeout")?,
            reload_strategy: match read.text("reload-strategy") {
                "all" => ReloadStrategy::All,
                _ => ReloadStrategy::Rolling,
            },
            touch_files: read.paths("touch-reload"),
            reloads_on_change: read.said.is_on("reload"),
            extra_globs: globs
                .map(|glob| read.start_dir.join(glob).to_string_lossy().into_owned())
                .collect(),
            requests_max: (requests_max > 0).then_some(requests_max),
            requests_jitter: jitter,
            worker_lifetime: (!lifetime.is_zero()).then_some(lifetime),
            worker_memory_max: (memory > 0).then_some(memory),
            workers_min: count("workers-min")?,
            workers_max: count("workers-max")?,
            control: match read.said.one("control-socket") {
                None => ControlPlace::Default,
                Some("none") => ControlPlace::None,
                Some(path) => ControlPlace::Path(read.start_dir.join(path)),
            },
        })
    }
}
