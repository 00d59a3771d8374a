//! What options mean, alone and together.

use std::ffi::OsString;

use super::*;
use crate::config::Asked;

fn resolve(line: &str) -> Result<Config, ConfigError> {
    let environment = Environment::from([("TMPDIR".to_owned(), "/scratch".to_owned())]);
    let arguments = std::iter::once("ringhorn").chain(line.split_whitespace());
    match Options::read(arguments.map(OsString::from), &environment)? {
        Asked::Serve(options) => Config::resolve(&options, &environment, Path::new("/start")),
        Asked::Print(text) => panic!("{text}"),
    }
}

#[test]
fn defaults() {
    let config = resolve("a:b").unwrap();
    assert_eq!(config.binds, [Bind::parse("127.0.0.1:8000").unwrap()]);
    assert_eq!(config.working_dir, Path::new("/start"));
    assert_eq!(config.graceful_timeout, Duration::from_secs(30));
    assert!(config.access_log.is_none() && !config.check && !config.reuse_port);
    let settings = config.loop_settings(2, Vec::new());
    assert_eq!(settings.event_loops, 2);
    assert_eq!(settings.head_limits.line_bytes, 8190);
    assert_eq!(settings.keep_alive_timeout, Duration::from_secs(75));
    assert_eq!(settings.spool_dir, Path::new("/scratch"));
    assert_eq!(settings.body_bytes_max, 0);
    assert!(settings.access.is_none());
    assert_eq!((settings.share(1024), settings.share(1025), settings.share(0)), (512, 513, 1));
}

#[test]
fn paths_are_those_of_the_start() {
    let line =
        "a:b --chdir app --pythonpath lib --pythonpath /x --bind unix:s --access-logfile a.log";
    let config = resolve(line).unwrap();
    assert_eq!(config.working_dir, Path::new("/start/app"));
    assert_eq!(config.python_path, [Path::new("/start/lib"), Path::new("/x")]);
    assert_eq!(config.binds[0].endpoint, Endpoint::UnixPath("/start/s".into()));
    let (target, _) = config.access_log.unwrap();
    assert_eq!(target, LogTarget::File("/start/a.log".into()));
}

#[test]
fn counts() {
    let check = |line: &str, cores, free_threaded, expected: (u32, u32, u32)| {
        let found = resolve(line).unwrap().concurrency(cores, free_threaded).unwrap();
        let found = (found.workers, found.threads, found.event_loops);
        assert_eq!(found, expected, "{line} on {cores} cores, free-threaded: {free_threaded}");
    };
    check("a:b", 4, false, (4, 1, 4));
    check("a:b", 4, true, (1, 4, 4));
    check("a:b -w 1", 4, false, (1, 1, 1));
    check("a:b -w 1 --threads 8", 4, false, (1, 8, 1));
    check("a:b -w 2", 4, true, (2, 2, 4));
    check("a:b -w 8 --threads 2 --event-loops 3", 2, false, (8, 2, 3));
    check("a:b", 0, false, (1, 1, 1));
    let most = limits::SEATS_MAX / 2;
    assert!(resolve(&format!("a:b -w 1 --threads {most}")).unwrap().concurrency(1, false).is_ok());
    assert!(resolve(&format!("a:b -w 2 --threads {most}")).unwrap().concurrency(1, false).is_err());
}

#[test]
fn refuses() {
    for line in [
        "",
        "a:b --env X",
        "a:b --env =X",
        "a:b --bind potato",
        "a:b --cpu-affinity some",
        "a:b --forwarded-allow-ips localhost",
        "a:b --access-logformat %(zz)s",
        "a:b --limit-request-line 9000 --limit-request-head 8000",
        "a:b --body-buffer-size 65MiB",
        "a:b --body-spool-size 5GiB",
        "a:b --response-buffer-size 2MiB --buffer-memory-max 1MiB",
        "a:b --health-path healthz",
        "a:b --ready-path /a?b",
        "a:b --ready-path /a%20b",
        "a:b --health-path /h --ready-path /h",
        "a:b --max-crashes -1",
        "a:b --shutdown-delay soon",
        "a:b --slow-request-log 30",
        "a:b --timeout 1.5 --slow-request-log 1.5",
        "a:b --timeout -1",
    ] {
        let error = resolve(line).expect_err(line);
        assert!(!error.hint.is_empty(), "{line}");
    }
    // Without spool files a body is gathered in memory or streamed.
    assert!(resolve("a:b --body-spool-size 0").is_ok());
    // Without a deadline a slow request may be as slow as it likes.
    assert!(resolve("a:b --timeout 0 --slow-request-log 60").is_ok());
}

#[test]
fn no_time_at_all_means_no_bound() {
    let of = |line: &str| resolve(line).unwrap().loop_settings(1, Vec::new());
    let said = of("a:b");
    assert_eq!(said.timeout, Some(Duration::from_secs(30)));
    assert_eq!(said.interrupt_grace, Duration::from_secs(2));
    assert!(said.slow_request_log.is_none() && !said.cancel_on_disconnect);
    let said = of("a:b -t 0 --queue-timeout 0 --slow-request-log 0.5 --cancel-on-disconnect");
    assert_eq!((said.timeout, said.queue_timeout), (None, None));
    assert_eq!(said.slow_request_log, Some(Duration::from_millis(500)));
    assert!(said.cancel_on_disconnect);
}

#[test]
fn health_paths_are_off_unless_asked_for() {
    let health = |line: &str| resolve(line).unwrap().loop_settings(1, Vec::new()).health;
    assert!(!health("a:b").is_asked_for());
    let paths = health("a:b --health-path /-/healthz");
    assert_eq!(paths.alive.as_deref(), Some(&b"/-/healthz"[..]));
    assert!(paths.ready.is_none() && paths.is_asked_for());
}

#[test]
fn the_access_log_says_what_to_capture() {
    let config = resolve("a:b --access-logfile - --access-logformat %(a)s").unwrap();
    let settings = config.loop_settings(1, Vec::new());
    let names = settings.access.unwrap().variables;
    assert_eq!(names, [Box::from(b"HTTP_USER_AGENT".as_slice())]);
}

#[test]
fn process_options() {
    let config = resolve("a:b").unwrap();
    assert_eq!((config.name.as_str(), config.umask, config.pid_file), ("a:b", None, None));
    let line = "a:b -n shop -u www -g 33 -m 0027 -p run/pid";
    let config = resolve(line).unwrap();
    assert_eq!((config.name.as_str(), config.umask), ("shop", Some(0o27)));
    assert_eq!((config.user.as_deref(), config.group.as_deref()), (Some("www"), Some("33")));
    assert_eq!(config.pid_file.as_deref(), Some(Path::new("/start/run/pid")));
    let long = format!("a:b --name {}", "x".repeat(NAME_BYTES_MAX + 1));
    for line in ["a:b --umask 8", "a:b --umask 1000", "a:b --umask +7", "a:b -n a\u{1}", &long] {
        assert!(resolve(line).is_err(), "{line}");
    }
}

#[test]
fn passed_sockets_are_the_default_binds() {
    let pid = std::process::id().to_string();
    let with = |line: &str| {
        let pairs = [
            ("LISTEN_FDS", "2"),
            ("LISTEN_PID", pid.as_str()),
            ("LISTEN_FDNAMES", "web:admin"),
            ("PORT", "80"),
        ];
        let environment = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let arguments = std::iter::once("ringhorn").chain(line.split_whitespace());
        match Options::read(arguments.map(OsString::from), &environment).unwrap() {
            Asked::Serve(options) => Config::resolve(&options, &environment, Path::new("/start")),
            Asked::Print(text) => panic!("{text}"),
        }
    };
    let shown = |line: &str| -> Vec<String> {
        with(line).unwrap().binds.iter().map(ToString::to_string).collect()
    };
    assert_eq!(shown("a:b"), ["fd://3", "fd://4"]);
    assert_eq!(shown("a:b --bind uwsgi://fd://admin"), ["uwsgi://fd://4"]);
    assert_eq!(shown("a:b --bind 127.0.0.1:1"), ["http://127.0.0.1:1"]);
    assert!(with("a:b --bind fd://other").is_err());
    for (line, expected) in [
        ("a:b", true),
        ("a:b --bind fd://web", true),
        ("a:b --bind fd://web --bind 127.0.0.1:1", false),
        ("a:b --bind fd://0", false),
    ] {
        assert_eq!(with(line).unwrap().has_only_passed_sockets(), expected, "{line}");
    }
}
