//! What was said, as the server uses it: typed, with paths absolute and options weighed against
//! each other. What depends on the interpreter (`auto` counts) is settled by
//! [`Config::concurrency`] once it was probed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::activation::{self, PassedSocket};
use super::said::Environment;
use super::value::{self, Amount};
use super::{
    AddressSet, Bind, ConfigError, Endpoint, HeadLimits, HealthPaths, Lifecycle, ListenerFacts,
    LoopSettings, Options, Startup, limits, options,
};
use crate::log::AccessFormat;

/// The meaning of all options.
#[derive(Clone, Debug)]
pub struct Config {
    /// Application specification, as said.
    pub application: String,
    /// `--python`, as said.
    pub python: Option<String>,
    /// `--pythonpath`, absolute, in order.
    pub python_path: Vec<PathBuf>,
    /// `--chdir`, absolute.
    pub working_dir: PathBuf,
    /// `--env`: name and value.
    pub environment: Vec<(String, String)>,
    /// `--runtime-dir`, absolute.
    pub runtime_dir: Option<PathBuf>,
    /// What happens around a worker's start.
    pub startup: Startup,
    /// `--check`.
    pub check: bool,
    /// `--bind`, at least one; names of passed sockets are their numbers here.
    pub binds: Vec<Bind>,
    /// Sockets that systemd passed, whether or not a bind takes them.
    pub passed_sockets: Vec<PassedSocket>,
    /// `--reuse-port`.
    pub reuse_port: bool,
    /// `--backlog`.
    pub backlog: u32,
    /// `--workers`.
    pub workers: Amount,
    /// `--threads`.
    pub threads: Amount,
    /// `--event-loops`.
    pub event_loops: Amount,
    /// `--cpu-affinity`.
    pub cpu_affinity: CpuAffinity,
    /// `--graceful-timeout`.
    pub graceful_timeout: Duration,
    /// When and how workers are replaced.
    pub lifecycle: Lifecycle,
    /// `--shutdown-delay`.
    pub shutdown_delay: Duration,
    /// `--max-crashes`.
    pub crashes_max: u32,
    /// `--user`, name or number.
    pub user: Option<String>,
    /// `--group`, likewise.
    pub group: Option<String>,
    /// `--umask`.
    pub umask: Option<u32>,
    /// `--pid`, absolute.
    pub pid_file: Option<PathBuf>,
    /// `--name`, or the application.
    pub name: String,
    /// `--access-logfile` with `--access-logformat`.
    pub access_log: Option<(LogTarget, AccessFormat)>,
    /// `--error-logfile`.
    pub error_log: LogTarget,
    /// `--log-level`, one of its words.
    pub log_level: String,
    /// What loops are given, listeners and loop count still missing.
    loop_settings: LoopSettings,
}

/// Which cores loops and workers are pinned to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CpuAffinity {
    /// None: the application's own threads and children would inherit the pin.
    None,
    /// The usable cores in order.
    Auto,
    /// These, in order.
    List(Vec<usize>),
}

/// Where a log goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogTarget {
    /// `-`: standard output for the access log, standard error for the server's.
    Standard,
    /// A file, absolute; appended to.
    File(PathBuf),
}

/// How many of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Concurrency {
    /// Worker processes at start.
    pub workers: u32,
    /// How few and how many there are by themselves, as work comes and goes.
    pub workers_range: (u32, u32),
    /// Room for so many: by hand (TTIN) there may be more than by themselves.
    pub workers_room: u32,
    /// Threads in each.
    pub threads: u32,
    /// Event loops.
    pub event_loops: u32,
}

impl Config {
    /// Weighs what was said. `start_dir` is where the server was started, absolute.
    ///
    /// # Errors
    /// A value without a meaning, or two options that cannot both hold.
    pub fn resolve(
        said: &Options,
        environment: &Environment,
        start_dir: &Path,
    ) -> Result<Config, ConfigError> {
        let read = Reader { said, start_dir };
        let application = said.application.clone().ok_or_else(|| {
            let hint =
                "say what to serve, such as `ringhorn module:application` or `ringhorn app.py`";
            ConfigError::new("no application was named", hint)
        })?;
        let passed_sockets = activation::passed(environment, std::process::id())?;
        let config = Config {
            name: read.name(&application)?,
            application,
            python: said.one("python").map(str::to_owned),
            python_path: read.paths("pythonpath"),
            working_dir: read.path("chdir").unwrap_or_else(|| start_dir.to_owned()),
            environment: read.worker_environment()?,
            runtime_dir: read.path("runtime-dir"),
            startup: Startup::read(said)?,
            check: said.is_on("check"),
            binds: read.binds(&passed_sockets)?,
            passed_sockets,
            reuse_port: said.is_on("reuse-port"),
            backlog: read.number("backlog")? as u32,
            workers: read.amount("workers")?,
            threads: read.amount("threads")?,
            event_loops: read.amount("event-loops")?,
            cpu_affinity: read.cpu_affinity()?,
            graceful_timeout: read.seconds("graceful-timeout")?,
            lifecycle: Lifecycle::read(&read)?,
            shutdown_delay: read.seconds("shutdown-delay")?,
            crashes_max: read.number("max-crashes")? as u32,
            user: said.one("user").map(str::to_owned),
            group: said.one("group").map(str::to_owned),
            umask: read.umask()?,
            pid_file: read.path("pid"),
            access_log: read.access_log()?,
            error_log: read.log_target("error-logfile").unwrap_or(LogTarget::Standard),
            log_level: read.text("log-level").to_owned(),
            loop_settings: read.loop_settings(environment)?,
        };
        config.check_against_each_other()?;
        Ok(config)
    }

    /// Settles `auto` counts for a probed interpreter on so many usable cores.
    ///
    /// # Errors
    /// More seats than a pool can have.
    pub fn concurrency(&self, cores: u32, free_threaded: bool) -> Result<Concurrency, ConfigError> {
        let cores = cores.max(1);
        let workers = match self.workers {
            Amount::Exactly(workers) => workers as u32,
            Amount::Auto if free_threaded => 1,
            Amount::Auto => cores.min(limits::WORKERS_MAX as u32),
        };
        let threads = match self.threads {
            Amount::Exactly(threads) => threads as u32,
            Amount::Auto if free_threaded => {
                cores.div_ceil(workers).min(limits::THREADS_MAX as u32)
            }
            Amount::Auto => 1,
        };
        let (lowest, highest) = self.workers_range(workers)?;
        let seats = highest * threads;
        // Half of the table: a replacement may need its seats before the dead one's are free again.
        let seats_most = limits::SEATS_MAX as u32 / 2;
        if seats > seats_most {
            return Err(ConfigError::new(
                format!(
                    "{highest} workers of {threads} threads are {seats} threads, {seats_most} is \
                     the most"
                ),
                "lower --workers, --workers-max or --threads",
            ));
        }
        let room = (2 * highest).min(seats_most / threads).min(limits::WORKERS_MAX as u32);
        let at_once = if free_threaded { workers * threads } else { workers };
        let event_loops = match self.event_loops {
            Amount::Exactly(loops) => loops as u32,
            Amount::Auto => cores.min(at_once).min(limits::EVENT_LOOPS_MAX as u32),
        };
        Ok(Concurrency {
            workers,
            workers_range: (lowest, highest),
            workers_room: room.max(highest),
            threads,
            event_loops,
        })
    }

    /// Between which bounds the number of workers follows the work; both are `workers` if neither
    /// was said.
    fn workers_range(&self, workers: u32) -> Result<(u32, u32), ConfigError> {
        let lowest = self.lifecycle.workers_min.unwrap_or(workers);
        let highest = self.lifecycle.workers_max.unwrap_or(workers);
        if lowest <= workers && workers <= highest {
            return Ok((lowest, highest));
        }
        Err(ConfigError::new(
            format!(
                "{workers} workers are not between --workers-min {lowest} and --workers-max \
                 {highest}"
            ),
            "say --workers, with which the server starts, between them",
        ))
    }

    /// Whether all listeners are systemd's, which go on when this server ends.
    pub fn has_only_passed_sockets(&self) -> bool {
        let is_passed = |bind: &Bind| match bind.endpoint {
            Endpoint::Descriptor(number) => {
                self.passed_sockets.iter().any(|socket| socket.number == number)
            }
            _ => false,
        };
        self.binds.iter().all(is_passed)
    }

    /// The settings of all loops.
    pub fn loop_settings(&self, event_loops: u32, listeners: Vec<ListenerFacts>) -> LoopSettings {
        let access = self.access_log.as_ref().map(|(_, format)| format.captures().clone());
        // concurrency() keeps the count below EVENT_LOOPS_MAX.
        LoopSettings {
            event_loops: event_loops as u16,
            listeners,
            access,
            ..self.loop_settings.clone()
        }
    }

    fn check_against_each_other(&self) -> Result<(), ConfigError> {
        let settings = &self.loop_settings;
        let head = settings.head_limits;
        let head_bytes = u64::from(head.head_bytes);
        let memory_bytes = settings.buffer_memory_bytes_max;
        // 0 = no spool files at all.
        let spool_bytes = match settings.body_spool_bytes {
            0 => u64::MAX,
            bytes => bytes,
        };
        let ordered = [
            ("limit-request-line", head.line_bytes.into(), "limit-request-head", head_bytes),
            ("limit-request-field-size", head.field_bytes.into(), "limit-request-head", head_bytes),
            ("body-buffer-size", settings.body_buffer_bytes, "buffer-memory-max", memory_bytes),
            (
                "response-buffer-size",
                settings.response_buffer_bytes,
                "buffer-memory-max",
                memory_bytes,
            ),
            ("body-buffer-size", settings.body_buffer_bytes, "body-spool-size", spool_bytes),
            (
                "body-spool-size",
                settings.body_spool_bytes,
                "spool-disk-max",
                settings.spool_disk_bytes_max,
            ),
        ];
        if let (Some(slow), Some(timeout)) = (settings.slow_request_log, settings.timeout)
            && slow >= timeout
        {
            return Err(ConfigError::new(
                format!(
                    "--slow-request-log ({}) is not below --timeout ({}): it would log nothing",
                    slow.as_secs_f64(),
                    timeout.as_secs_f64()
                ),
                "lower --slow-request-log, or raise --timeout",
            ));
        }
        for (small, small_bytes, large, large_bytes) in ordered {
            if small_bytes > large_bytes {
                return Err(ConfigError::new(
                    format!(
                        "--{small} ({}) is above --{large} ({})",
                        value::spell_bytes(small_bytes),
                        value::spell_bytes(large_bytes)
                    ),
                    format!("raise --{large} or lower --{small}"),
                ));
            }
        }
        Ok(())
    }
}

/// Bytes of `--name`: a title is read in a list, a line each.
const NAME_BYTES_MAX: usize = 100;

/// Reads typed values of rows. Each passed [`value::check`] when it was said; what is refused here
/// is refused again with the same words.
pub(super) struct Reader<'a> {
    pub(super) said: &'a Options,
    pub(super) start_dir: &'a Path,
}

impl Reader<'_> {
    pub(super) fn text(&self, name: &str) -> &str {
        self.said.one(name).unwrap_or_default()
    }

    pub(super) fn paths(&self, name: &str) -> Vec<PathBuf> {
        self.said.many(name).into_iter().map(|path| self.start_dir.join(path)).collect()
    }

    /// A number of a row without a default.
    pub(super) fn optional_number(&self, name: &str) -> Result<Option<u64>, ConfigError> {
        self.said.is_said(name).then(|| self.number(name)).transpose()
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        self.said.one(name).map(|path| self.start_dir.join(path))
    }

    pub(super) fn number(&self, name: &str) -> Result<u64, ConfigError> {
        let (_, row) = options::row(name);
        let (lowest, highest) = match row.takes {
            options::Takes::Number(lowest, highest) => (lowest, highest),
            _ => (0, u64::MAX),
        };
        self.refusing(name, value::number(self.text(name), lowest, highest))
    }

    fn amount(&self, name: &str) -> Result<Amount, ConfigError> {
        let (_, row) = options::row(name);
        let (lowest, highest) = match row.takes {
            options::Takes::NumberOrAuto(lowest, highest) => (lowest, highest),
            _ => (0, u64::MAX),
        };
        self.refusing(name, value::amount(self.text(name), lowest, highest))
    }

    pub(super) fn bytes(&self, name: &str) -> Result<u64, ConfigError> {
        let (_, row) = options::row(name);
        let (lowest, highest) = match row.takes {
            options::Takes::Bytes(lowest, highest) => (lowest, highest),
            _ => (0, u64::MAX),
        };
        self.refusing(name, value::bytes(self.text(name), lowest, highest))
    }

    pub(super) fn seconds(&self, name: &str) -> Result<Duration, ConfigError> {
        self.refusing(name, value::seconds(self.text(name), 0))
    }

    fn addresses(&self, name: &str) -> Result<AddressSet, ConfigError> {
        self.refusing(name, AddressSet::parse(self.text(name)))
    }

    fn refusing<T>(&self, name: &str, value: Result<T, String>) -> Result<T, ConfigError> {
        value.map_err(|hint| {
            ConfigError::new(format!("--{name} cannot be `{}`", self.text(name)), hint)
        })
    }

    fn binds(&self, passed: &[PassedSocket]) -> Result<Vec<Bind>, ConfigError> {
        if !passed.is_empty() && !self.said.is_said("bind") {
            let http = |socket: &PassedSocket| Bind::parse(&format!("fd://{}", socket.number));
            return passed.iter().map(http).collect();
        }
        let said = self.said.many("bind");
        if said.len() > limits::LISTENERS_MAX {
            let most = limits::LISTENERS_MAX;
            let message = format!("--bind is said {} times, {most} is the most", said.len());
            return Err(ConfigError::new(message, "one address serves any number of names"));
        }
        let mut binds = Vec::new();
        for text in said {
            let mut bind = Bind::parse(text)?;
            match &mut bind.endpoint {
                // The file is unlinked at exit: by the same path, wherever that happens.
                Endpoint::UnixPath(path) => *path = self.start_dir.join(&path),
                Endpoint::Named(name) => {
                    for number in activation::named(passed, name)? {
                        let endpoint = Endpoint::Descriptor(number);
                        binds.push(Bind { endpoint, ..bind.clone() });
                    }
                    continue;
                }
                _ => {}
            }
            binds.push(bind);
        }
        Ok(binds)
    }

    fn umask(&self) -> Result<Option<u32>, ConfigError> {
        let octal = |text: &str| {
            u32::from_str_radix(text, 8)
                .ok()
                .filter(|mask| *mask <= 0o777 && !text.starts_with('+'))
                .ok_or_else(|| "it is octal, such as 0027".to_owned())
        };
        self.said.one("umask").map(|text| self.refusing("umask", octal(text))).transpose()
    }

    /// What process titles show: one line of it.
    fn name(&self, application: &str) -> Result<String, ConfigError> {
        let name = self.said.one("name").unwrap_or(application);
        if self.said.is_said("name") {
            let is_fit = name.len() <= NAME_BYTES_MAX && !name.contains(char::is_control);
            let hint = format!("it has {NAME_BYTES_MAX} bytes at most, and no control characters");
            return self.refusing("name", is_fit.then(|| name.to_owned()).ok_or(hint));
        }
        Ok(name.chars().filter(|letter| !letter.is_control()).take(NAME_BYTES_MAX).collect())
    }

    fn worker_environment(&self) -> Result<Vec<(String, String)>, ConfigError> {
        let pair = |text: &str| match text.split_once('=') {
            Some((name, value)) if !name.is_empty() && !text.contains('\0') => {
                Ok((name.to_owned(), value.to_owned()))
            }
            _ => Err(ConfigError::new(
                format!("--env cannot be `{text}`"),
                "it is KEY=VALUE; a list of lines in the environment variable RINGHORN_ENV",
            )),
        };
        self.said.many("env").into_iter().map(pair).collect()
    }

    fn cpu_affinity(&self) -> Result<CpuAffinity, ConfigError> {
        match self.text("cpu-affinity") {
            "none" => Ok(CpuAffinity::None),
            "auto" => Ok(CpuAffinity::Auto),
            list => self.refusing("cpu-affinity", value::cores(list).map(CpuAffinity::List)),
        }
    }

    fn log_target(&self, name: &str) -> Option<LogTarget> {
        self.said.one(name).map(|target| match target {
            "-" => LogTarget::Standard,
            path => LogTarget::File(self.start_dir.join(path)),
        })
    }

    fn access_log(&self) -> Result<Option<(LogTarget, AccessFormat)>, ConfigError> {
        let format = AccessFormat::compile(self.text("access-logformat")).map_err(|fault| {
            ConfigError::new(
                format!("--access-logformat: {fault}"),
                "docs/access-log.md lists the atoms, such as %(h)s and %({user-agent}i)s",
            )
        })?;
        Ok(self.log_target("access-logfile").map(|target| (target, format)))
    }

    fn loop_settings(&self, environment: &Environment) -> Result<LoopSettings, ConfigError> {
        let unless_zero = |bound: Duration| (!bound.is_zero()).then_some(bound);
        Ok(LoopSettings {
            event_loops: 1,
            head_limits: HeadLimits {
                // Each row's range ends far below 2^32.
                line_bytes: self.bytes("limit-request-line")? as u32,
                fields: self.number("limit-request-fields")? as u32,
                field_bytes: self.bytes("limit-request-field-size")? as u32,
                head_bytes: self.bytes("limit-request-head")? as u32,
            },
            body_bytes_max: self.bytes("limit-request-body")?,
            keep_alive_timeout: self.seconds("keep-alive")?,
            header_timeout: self.seconds("header-timeout")?,
            body_timeout: self.seconds("body-timeout")?,
            send_timeout: self.seconds("send-timeout")?,
            inflight_max: self.number("max-inflight")? as u32,
            queue_timeout: unless_zero(self.seconds("queue-timeout")?),
            timeout: unless_zero(self.seconds("timeout")?),
            interrupt_grace: self.seconds("interrupt-grace")?,
            slow_request_log: unless_zero(self.seconds("slow-request-log")?),
            cancel_on_disconnect: self.said.is_on("cancel-on-disconnect"),
            connections_max: self.number("max-connections")? as u32,
            body_buffer_bytes: self.bytes("body-buffer-size")?,
            body_spool_bytes: self.bytes("body-spool-size")?,
            response_buffer_bytes: self.bytes("response-buffer-size")?,
            buffer_memory_bytes_max: self.bytes("buffer-memory-max")?,
            spool_disk_bytes_max: self.bytes("spool-disk-max")?,
            spool_dir: self
                .path("spool-dir")
                .unwrap_or_else(|| self.default_spool_dir(environment)),
            forwarded_allow: self.addresses("forwarded-allow-ips")?,
            uwsgi_allow: self.addresses("uwsgi-allow-from")?,
            health: self.health_paths()?,
            listeners: Vec::new(),
            access: None,
        })
    }

    fn health_paths(&self) -> Result<HealthPaths, ConfigError> {
        let read = |name: &str| -> Result<Option<Box<[u8]>>, ConfigError> {
            let Some(said) = self.said.one(name) else { return Ok(None) };
            self.refusing(name, value::path_info(said))?;
            Ok(Some(said.as_bytes().into()))
        };
        let paths = HealthPaths { alive: read("health-path")?, ready: read("ready-path")? };
        if paths.alive.is_some() && paths.alive == paths.ready {
            let path = self.text("health-path");
            return Err(ConfigError::new(
                format!("--health-path and --ready-path are both {path}"),
                "they answer different questions: name two, such as /-/healthz and /-/readyz",
            ));
        }
        Ok(paths)
    }

    fn default_spool_dir(&self, environment: &Environment) -> PathBuf {
        match environment.get("TMPDIR").filter(|dir| !dir.is_empty()) {
            Some(dir) => self.start_dir.join(dir),
            None if Path::new("/var/tmp").is_dir() => PathBuf::from("/var/tmp"),
            None => PathBuf::from("/tmp"),
        }
    }
}

#[cfg(test)]
mod tests;
