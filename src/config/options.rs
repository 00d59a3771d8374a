//! The option table: one row an option, and nothing about an option anywhere else but its meaning.
//!
//! Help, the command line, the environment and `docs/configuration.md` are made from these rows;
//! [`super::said`] reads values by them, [`super::resolved`] gives them a meaning. Not on the walk
//! of a request.
//!
//! Invariants: names are unique; a default passes the check of its own row (tested); one spelling
//! each.

use super::limits;

/// What an option takes, and which values are legal on their face.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// A switch.
    Nothing,
    /// One text; the name it has in the help.
    Text(&'static str),
    /// A text that may be given several times.
    Many(&'static str),
    /// A whole number in a range.
    Number(u64, u64),
    /// A whole number in a range, or `auto`.
    NumberOrAuto(u64, u64),
    /// Bytes in a range; plain or with KiB, MiB, GiB.
    Bytes(u64, u64),
    /// Seconds, fractions allowed, up to [`limits::TIMEOUT_SECONDS_MAX`]; the lowest legal value.
    Seconds(u64),
    /// One of these words.
    Choice(&'static [&'static str]),
}

/// One option.
#[derive(Debug)]
pub struct Row {
    /// Long name without dashes; the environment variable is `RINGHORN_` and this in capitals.
    pub name: &'static str,
    /// Short name.
    pub short: Option<char>,
    /// What it takes.
    pub takes: Takes,
    /// Default as it would be said; empty: nothing.
    pub default: &'static str,
    /// A further environment variable, read after `RINGHORN_…`.
    pub also: Option<&'static str>,
    /// Where it stands in help and documentation.
    pub section: &'static str,
    /// What it does, in the user's words; the first sentence is its short help.
    pub doc: &'static str,
}

impl Row {
    /// The option's own environment variable.
    pub fn variable(&self) -> String {
        format!("RINGHORN_{}", self.name.replace('-', "_").to_uppercase())
    }

    /// How its value is called in help, `None` for a switch.
    pub fn value_name(&self) -> Option<String> {
        Some(match self.takes {
            Takes::Nothing => return None,
            Takes::Text(name) | Takes::Many(name) => name.to_owned(),
            Takes::Number(..) => "N".to_owned(),
            Takes::NumberOrAuto(..) => "N|auto".to_owned(),
            Takes::Bytes(..) => "SIZE".to_owned(),
            Takes::Seconds(_) => "SECONDS".to_owned(),
            Takes::Choice(words) => words.join("|"),
        })
    }

    /// The doc's first sentence.
    pub fn summary(&self) -> &'static str {
        self.doc.split_once(". ").map_or(self.doc.trim_end_matches('.'), |(first, _)| first)
    }
}

/// The row of a name that stands in the code.
///
/// # Panics
/// If there is none: the name is a literal of ours, and every one is read when a server starts.
pub fn row(name: &str) -> (usize, &'static Row) {
    match ROWS.iter().enumerate().find(|(_, row)| row.name == name) {
        Some(found) => found,
        None => panic!("no option is called {name}"),
    }
}

/// Sections in the order of the help.
pub const SECTIONS: &[&str] = &[
    APPLICATION,
    LISTENERS,
    CONCURRENCY,
    LIFECYCLE,
    REQUESTS,
    TIMEOUTS,
    BODIES,
    OVERLOAD,
    HEALTH,
    TRUST,
    PROCESS,
    LOGS,
];

const APPLICATION: &str = "Application and interpreter";
const LISTENERS: &str = "Listeners";
const CONCURRENCY: &str = "Workers, threads and loops";
const LIFECYCLE: &str = "Reload and recycling";
const REQUESTS: &str = "Limits of a request";
const TIMEOUTS: &str = "Timeouts";
const BODIES: &str = "Buffers and spool files";
const OVERLOAD: &str = "Overload";
const HEALTH: &str = "Health";
const TRUST: &str = "Trusted peers";
const PROCESS: &str = "Process and privileges";
const LOGS: &str = "Logs";

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const TIB: u64 = 1024 * 1024 * MIB;
const HEAD_MAX: u64 = limits::REQUEST_HEAD_BYTES_MAX as u64;

/// gunicorn's default access log format, which parsers know.
pub const ACCESS_LOGFORMAT: &str = r#"%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s""#;

const fn option(
    section: &'static str,
    name: &'static str,
    takes: Takes,
    default: &'static str,
    doc: &'static str,
) -> Row {
    Row { name, short: None, takes, default, also: None, section, doc }
}

impl Row {
    const fn short(self, short: char) -> Row {
        Row { short: Some(short), ..self }
    }

    const fn also(self, variable: &'static str) -> Row {
        Row { also: Some(variable), ..self }
    }
}

/// All options, by section.
#[rustfmt::skip]
pub const ROWS: &[Row] = &[
    option(APPLICATION, "python", Takes::Text("PYTHON"), "",
        "Interpreter of the workers. A path, a version (`3.12`), a name on PATH (`python3.13`) or \
         the folder of a virtual environment. Default: `$VIRTUAL_ENV`, then the interpreter that \
         ran the `ringhorn` script, then `python3`."),
    option(APPLICATION, "pythonpath", Takes::Many("DIR"), "",
        "Folder put before `sys.path`. Repeatable, in order; the folder of `--chdir` comes first."),
    option(APPLICATION, "chdir", Takes::Text("DIR"), "",
        "Working directory of the workers. The application is imported from there. Default: the \
         directory in which the server was started."),
    option(APPLICATION, "env", Takes::Many("KEY=VALUE"), "",
        "Environment variable of the workers. Repeatable.").short('e'),
    option(APPLICATION, "preload", Takes::Nothing, "",
        "Imports the application once and forks the workers from there. Saves the memory that they \
         share, and start-up time of all but the first. What the application opens or starts at \
         import (connections, threads) must stand a fork: docs/operations.md."),
    option(APPLICATION, "hooks", Takes::Text("MODULE"), "",
        "Module whose functions run around the server's life. A module, or a `.py` file; \
         docs/operations.md names the functions: `on_starting`, `when_ready`, `post_fork`, \
         `worker_start`, `worker_exit`, `on_reload`, `on_exit`. It is imported without the \
         application."),
    option(APPLICATION, "warm-up", Takes::Many("PATH"), "",
        "Path that a worker asks its application for before it is ready. Repeatable, in order; \
         `http://HOST/path` sets the host. An exception or an answer of 5xx is as good as an \
         application that cannot be imported."),
    option(APPLICATION, "runtime-dir", Takes::Text("DIR"), "",
        "Folder of the runtime modules. Default: beside the executable, then `../lib/ringhorn`."),
    option(APPLICATION, "check", Takes::Nothing, "",
        "Loads configuration and application, says OK and exits. Nothing is bound or served."),

    option(LISTENERS, "bind", Takes::Many("ADDRESS"), "127.0.0.1:8000",
        "Address to listen on. Repeatable. `HOST:PORT`, `[::1]:PORT`, `unix:/path`, \
         `unix:@abstract`, `fd://N` or `fd://NAME` (a socket that systemd passes), after `http://` \
         (what a bare address means) or `uwsgi://`; `?mode=0660&user=NAME&group=NAME` sets mode and \
         owner of a Unix socket file. Without it, all sockets that systemd passes are taken, else \
         `PORT` in the environment means `0.0.0.0:$PORT`.").short('b'),
    option(LISTENERS, "reuse-port", Takes::Nothing, "",
        "One listening socket a loop on each TCP address (SO_REUSEPORT). Default: all loops share \
         one."),
    option(LISTENERS, "backlog", Takes::Number(1, 65_535), "2048",
        "Connections that may wait to be accepted. The kernel clips it at net.core.somaxconn."),

    option(CONCURRENCY, "workers", Takes::NumberOrAuto(1, limits::WORKERS_MAX as u64), "auto",
        "Interpreter processes. `auto`: one a usable core (CPU affinity and cgroup quota), one in \
         all on a free-threaded interpreter.").short('w').also("WEB_CONCURRENCY"),
    option(CONCURRENCY, "workers-min", Takes::Number(1, limits::WORKERS_MAX as u64), "",
        "Fewest workers: while they are idle, there are no more than these. Default: `--workers`."),
    option(CONCURRENCY, "workers-max", Takes::Number(1, limits::WORKERS_MAX as u64), "",
        "Most workers: as many are started while requests wait for one. Default: `--workers`, and \
         twice that many by hand (TTIN)."),
    option(CONCURRENCY, "threads", Takes::NumberOrAuto(1, limits::THREADS_MAX as u64), "auto",
        "Threads that call the application, in each worker. `auto`: 1, or the usable cores \
         divided by the workers on a free-threaded interpreter."),
    option(CONCURRENCY, "event-loops", Takes::NumberOrAuto(1, limits::EVENT_LOOPS_MAX as u64),
        "auto",
        "Event loops, one thread each. `auto`: one a usable core, but no more than interpreters \
         (on a free-threaded one: threads) that can run at once."),
    option(CONCURRENCY, "max-crashes", Takes::Number(0, limits::CRASHES_MAX as u64), "3",
        "How often a worker that crashes is started again before any was ready. Then the server \
         ends. An error that the import of the application raises ends it at once; a crash after \
         the first worker was ready never does."),
    option(CONCURRENCY, "cpu-affinity", Takes::Text("none|auto|LIST"), "none",
        "Pins loop i and worker i to the same core. `auto`: the usable cores in order; LIST: core \
         numbers and ranges such as `0,2,4-7`. A worker is pinned once it is ready; what it \
         starts inherits the pin."),

    option(LIFECYCLE, "reload-strategy", Takes::Choice(&["rolling", "all"]), "rolling",
        "How a reload replaces the workers. `rolling`: one after the other, so that it takes the \
         memory of one more worker, and both releases serve meanwhile; `all`: all are started \
         beside the old ones, which are left at once when every one is ready."),
    option(LIFECYCLE, "touch-reload", Takes::Many("FILE"), "",
        "Reloads when this file is touched, made or removed. Repeatable."),
    option(LIFECYCLE, "reload", Takes::Nothing, "",
        "Reloads when a file changes that the application imported, or another Python file beside \
         one in the working directory. For development."),
    option(LIFECYCLE, "reload-extra-file", Takes::Many("GLOB"), "",
        "Further files that `--reload` watches, such as `templates/**/*.html`. Repeatable."),
    option(LIFECYCLE, "max-requests", Takes::Number(0, 1 << 40), "0",
        "A worker is replaced after so many requests; 0 = never. The next one is ready before it \
         leaves."),
    option(LIFECYCLE, "max-requests-jitter", Takes::Number(0, 1 << 40), "",
        "Up to so many requests are added to `--max-requests`, another number for each worker, so \
         that they are not replaced all at once. Default: a tenth of it."),
    option(LIFECYCLE, "max-worker-lifetime", Takes::Seconds(0), "0",
        "A worker is replaced after so long, give or take a tenth; 0 = never."),
    option(LIFECYCLE, "max-rss", Takes::Bytes(0, TIB), "0",
        "A worker is replaced when it holds so much memory; 0 = never. What counts is its \
         proportional share (PSS), so that memory shared by workers counts once."),
    option(LIFECYCLE, "control-socket", Takes::Text("PATH"), "",
        "Unix socket on which `ringhorn reload` and `ringhorn status` reach the server; `none` = \
         no socket. Default: `ringhorn-PID.ctl` in `$RUNTIME_DIRECTORY`, `$XDG_RUNTIME_DIR` or \
         /tmp/ringhorn-UID."),

    option(REQUESTS, "limit-request-line", Takes::Bytes(64, HEAD_MAX),
        "8190",
        "Longest request line. Beyond it: 414."),
    option(REQUESTS, "limit-request-fields", Takes::Number(1, limits::REQUEST_FIELDS_MAX as u64),
        "100",
        "Most header fields of a request. Beyond it: 431."),
    option(REQUESTS, "limit-request-field-size", Takes::Bytes(64, HEAD_MAX),
        "16384",
        "Largest header field, name and value. Beyond it: 431."),
    option(REQUESTS, "limit-request-head", Takes::Bytes(512, HEAD_MAX),
        "65536",
        "Largest request head as a whole. Beyond it: 431. A uwsgi packet may always have its \
         65,535 bytes."),
    option(REQUESTS, "limit-request-body", Takes::Bytes(0, TIB), "0",
        "Largest request body; 0 = any. Beyond it: 413."),

    option(TIMEOUTS, "timeout", Takes::Seconds(0), "30",
        "Longest time of a request in the application, from the moment a thread takes it until its \
         response is complete; 0 = any. Beyond it the client gets 504 (or is cut if bytes went \
         out), the log gets the thread's stack, and `RequestTimeout` is raised in the thread. \
         Responses that stream for longer, such as server-sent events and large downloads by slow \
         clients, need a larger value or 0.").short('t'),
    option(TIMEOUTS, "interrupt-grace", Takes::Seconds(0), "2",
        "How long an interrupted request may take to unwind. Beyond it the worker is replaced: its \
         other requests finish, then it is killed."),
    option(TIMEOUTS, "slow-request-log", Takes::Seconds(0), "0",
        "Logs the stack of a request that has run for so long, once, without touching it; 0 = \
         never. Below `--timeout`."),
    option(TIMEOUTS, "cancel-on-disconnect", Takes::Nothing, "",
        "Raises `ClientDisconnected` in the thread of a request whose client left. A client that \
         only shut down its sending side counts as gone, too."),
    option(TIMEOUTS, "keep-alive", Takes::Seconds(0), "75",
        "How long an idle connection is kept for its next request; 0 = closed after each \
         response."),
    option(TIMEOUTS, "header-timeout", Takes::Seconds(0), "30",
        "Longest pause of a client within a request head; 0 = any. Beyond it: 408."),
    option(TIMEOUTS, "body-timeout", Takes::Seconds(0), "30",
        "Longest pause of a client within a request body; 0 = any."),
    option(TIMEOUTS, "send-timeout", Takes::Seconds(0), "30",
        "Longest pause of a client in taking a response; 0 = any."),
    option(TIMEOUTS, "queue-timeout", Takes::Seconds(0), "30",
        "Longest wait of a request for a free thread; 0 = any. Beyond it: 503 with Retry-After."),
    option(TIMEOUTS, "graceful-timeout", Takes::Seconds(0), "30",
        "How long requests in flight may take to finish after TERM, and those of a worker that is \
         replaced. After TERM counted from the end of `--shutdown-delay`; beyond it: 503 if no \
         thread had the request yet, 504 if one had."),
    option(TIMEOUTS, "shutdown-delay", Takes::Seconds(0), "0",
        "How long everything is served on after TERM before the stop begins. Readiness \
         (`--ready-path`) is false meanwhile, so that a load balancer sends clients elsewhere."),
    option(TIMEOUTS, "startup-timeout", Takes::Seconds(0), "60",
        "How long a worker may take until it is ready; 0 = any. Beyond it, it is stopped, with \
         where it hangs in the log."),

    option(BODIES, "body-buffer-size", Takes::Bytes(0, 1024 * MIB), "1MiB",
        "A request body up to this size is gathered in memory before the application runs."),
    option(BODIES, "body-spool-size", Takes::Bytes(0, TIB), "64MiB",
        "A request body up to this size is gathered in a temporary file. A larger one is \
         streamed."),
    option(BODIES, "response-buffer-size", Takes::Bytes(0, 1024 * MIB), "1MiB",
        "How much of a response is taken off its worker for a slow client."),
    option(BODIES, "buffer-memory-max", Takes::Bytes(MIB, TIB), "256MiB",
        "All gathered bodies and buffered responses together. At it, new bodies get 503."),
    option(BODIES, "spool-disk-max", Takes::Bytes(0, 1024 * TIB), "4GiB",
        "All temporary files together. At it, new bodies get 503."),
    option(BODIES, "spool-dir", Takes::Text("DIR"), "",
        "Folder of the temporary files, which have no name in it. Default: `$TMPDIR`, then \
         /var/tmp, since /tmp is often memory."),

    option(OVERLOAD, "max-inflight", Takes::Number(1, limits::INFLIGHT_MAX as u64), "1024",
        "Most requests queued and running. Beyond it: 503 with Retry-After."),
    option(OVERLOAD, "max-connections", Takes::Number(1, limits::CONNECTIONS_MAX as u64), "16384",
        "Most open connections, idle ones included. Beyond it, new ones wait in the backlog."),

    option(HEALTH, "health-path", Takes::Text("PATH"), "",
        "Path that the server itself answers with 200 while it lives, such as `/-/healthz`. Over \
         HTTP and uwsgi, without Python: also while every worker hangs and before the first one is \
         ready. Compared with PATH_INFO as a whole; GET and HEAD only. Leaves no line in the access \
         log. Default: none."),
    option(HEALTH, "ready-path", Takes::Text("PATH"), "",
        "Path that the server itself answers with 200 while it would serve, such as `/-/readyz`. \
         Else with 503 and why: no worker is ready, `--max-inflight` is reached, or the server is \
         stopping. Otherwise as `--health-path`. With either of them connections are accepted from \
         the start, and what comes before the first worker is ready waits in the queue."),

    option(TRUST, "forwarded-allow-ips", Takes::Text("LIST"), "127.0.0.1,::1",
        "Peers whose X-Forwarded-Proto and X-Request-ID are believed. Addresses and networks, `*` \
         = all; Unix sockets always are.").also("FORWARDED_ALLOW_IPS"),
    option(TRUST, "uwsgi-allow-from", Takes::Text("LIST"), "127.0.0.1,::1",
        "Peers that may speak uwsgi over TCP. Addresses and networks, `*` = all; a Unix socket is \
         governed by its mode."),

    option(PROCESS, "user", Takes::Text("USER"), "",
        "User that server and workers run as, name or number. Listeners and io_uring are set up \
         before, as root; then groups, user and `no_new_privs` are set for good, and debuggers of \
         that user are kept off the server. Default: whoever started it.").short('u'),
    option(PROCESS, "group", Takes::Text("GROUP"), "",
        "Group that server and workers run as, name or number. Default: the primary group of \
         `--user`.").short('g'),
    option(PROCESS, "umask", Takes::Text("MODE"), "",
        "Permissions that files of server and workers do not get, octal such as `0027`. Default: \
         whatever it is at the start.").short('m'),
    option(PROCESS, "pid", Takes::Text("FILE"), "",
        "File with the server's process id. Written once listeners are bound, locked while the \
         server lives, removed in the end; one whose server is gone is taken over. `--user` must \
         be able to write to its folder.").short('p'),
    option(PROCESS, "name", Takes::Text("NAME"), "",
        "Name in the process titles of server and workers, beside generation and state. Default: \
         the application.").short('n'),

    option(LOGS, "access-logfile", Takes::Text("FILE"), "",
        "Access log; `-` = standard output. Default: none."),
    option(LOGS, "access-logformat", Takes::Text("FORMAT"), ACCESS_LOGFORMAT,
        "Line of the access log, in gunicorn's atoms (docs/access-log.md)."),
    option(LOGS, "error-logfile", Takes::Text("FILE"), "-",
        "Log of the server and standard error of the workers; `-` = standard error."),
    option(LOGS, "log-level", Takes::Choice(&["error", "warning", "info", "debug", "trace"]),
        "info",
        "Least severe message that the server logs."),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::value;

    #[test]
    fn defaults_pass_their_own_check() {
        for row in ROWS.iter().filter(|row| !row.default.is_empty()) {
            assert_eq!(value::check(row, row.default), Ok(()), "--{}", row.name);
        }
    }

    #[test]
    fn names_are_unique_and_sections_known() {
        for (index, row) in ROWS.iter().enumerate() {
            assert!(SECTIONS.contains(&row.section), "--{}", row.name);
            assert!(row.doc.ends_with('.'), "--{}", row.name);
            for other in &ROWS[..index] {
                assert_ne!(row.name, other.name);
                assert!(row.short.is_none() || row.short != other.short, "--{}", row.name);
            }
        }
    }
}
