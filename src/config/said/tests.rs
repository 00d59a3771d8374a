//! Command line and environment, as tables.

use super::*;

fn read(line: &str, environment: &[(&str, &str)]) -> Result<Asked, ConfigError> {
    let arguments = std::iter::once("ringhorn").chain(line.split_whitespace());
    let environment =
        environment.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    Options::read(arguments.map(OsString::from), &environment)
}

fn options(line: &str, environment: &[(&str, &str)]) -> Options {
    match read(line, environment) {
        Ok(Asked::Serve(options)) => options,
        other => panic!("{line}: {other:?}"),
    }
}

#[test]
fn clap_is_content_with_the_table() {
    command().debug_assert();
}

#[test]
fn command_line_before_environment_before_default() {
    let check = |line, environment: &[(&str, &str)], name, expected: &[&str]| {
        assert_eq!(options(line, environment).many(name), expected, "{line} {environment:?}");
    };
    check("a:b", &[], "workers", &["auto"]);
    check("a:b", &[("WEB_CONCURRENCY", "3")], "workers", &["3"]);
    check("a:b", &[("WEB_CONCURRENCY", "3"), ("RINGHORN_WORKERS", "4")], "workers", &["4"]);
    check("a:b -w 5", &[("WEB_CONCURRENCY", "3"), ("RINGHORN_WORKERS", "4")], "workers", &["5"]);
    check("a:b", &[("RINGHORN_WORKERS", "")], "workers", &["auto"]);
    check("a:b", &[], "bind", &["127.0.0.1:8000"]);
    check("a:b", &[("PORT", "5000")], "bind", &["0.0.0.0:5000"]);
    check("a:b -b x:1 -b y:2", &[("PORT", "5000")], "bind", &["x:1", "y:2"]);
    check("a:b", &[("RINGHORN_BIND", "x:1, unix:/y"), ("PORT", "1")], "bind", &["x:1", "unix:/y"]);
    check("a:b", &[("RINGHORN_ENV", "A=1,2\nB=3")], "env", &["A=1,2", "B=3"]);
    check("a:b", &[("FORWARDED_ALLOW_IPS", "*")], "forwarded-allow-ips", &["*"]);
    check("a:b", &[], "python", &[]);
}

#[test]
fn switches() {
    assert!(!options("a:b", &[]).is_on("reuse-port"));
    assert!(options("a:b --reuse-port", &[("RINGHORN_REUSE_PORT", "0")]).is_on("reuse-port"));
    assert!(options("a:b", &[("RINGHORN_REUSE_PORT", "yes")]).is_on("reuse-port"));
    assert!(!options("a:b", &[("RINGHORN_REUSE_PORT", "no")]).is_on("reuse-port"));
}

#[test]
fn the_application() {
    assert_eq!(options("a:b", &[]).application.as_deref(), Some("a:b"));
    let environment = [("RINGHORN_APPLICATION", "c:d")];
    assert_eq!(options("", &environment).application.as_deref(), Some("c:d"));
    assert_eq!(options("a:b", &environment).application.as_deref(), Some("a:b"));
    assert_eq!(options("", &[]).application, None);
}

#[test]
fn refuses() {
    let check = |line: &str, environment: &[(&str, &str)], message: &str, hint: &str| {
        let error = read(line, environment).expect_err(line);
        assert!(error.message.contains(message), "{line}: {}", error.message);
        assert!(error.hint.contains(hint), "{line}: {}", error.hint);
    };
    check("a:b --workrs 2", &[], "unknown option `--workrs`", "`--workers`");
    check("a:b --processes 2", &[], "unknown option `--processes`", "`--workers`");
    check("a:b --zzzzzzzz", &[], "unknown option `--zzzzzzzz`", "--help");
    check("a:b c:d", &[], "`c:d`", "one application");
    check("a:b --workers", &[], "`--workers <N|auto>` takes a value", "");
    check("a:b --workers -1", &[], "--workers cannot be `-1`", "from 1 to");
    check("a:b --workers 0", &[], "--workers cannot be `0`", "from 1 to");
    check("a:b --workers 2 --workers 3", &[], "given twice", "--bind");
    check("a:b --keep-alive soon", &[], "--keep-alive cannot be `soon`", "seconds");
    check("a:b --log-level loud", &[], "--log-level cannot be `loud`", "warning");
    check("a:b", &[("RINGHORN_WORKERS", "x")], "RINGHORN_WORKERS in the environment", "auto");
    check("a:b", &[("WEB_CONCURRENCY", "x")], "WEB_CONCURRENCY in the environment", "auto");
    check("a:b", &[("PORT", "http")], "PORT in the environment", "--bind");
    check("a:b", &[("RINGHORN_REUSE_PORT", "maybe")], "RINGHORN_REUSE_PORT", "true");
}

#[test]
fn warns_of_misspelt_variables_only() {
    let check = |name: &str, expected: usize| {
        assert_eq!(options("a:b", &[(name, "x")]).warnings.len(), expected, "{name}");
    };
    check("RINGHORN_WORKRES", 1);
    check("RINGHORN_SERVICE_HOST", 0);
    check("RINGHORN_LAUNCHED_BY", 0);
    check("RINGHORN_APPLICATION", 0);
    check("WORKERS", 0);
}

#[test]
fn prints() {
    let printed = |line: &str| match read(line, &[]) {
        Ok(Asked::Print(text)) => text,
        other => panic!("{line}: {other:?}"),
    };
    assert!(printed("--version").contains(env!("CARGO_PKG_VERSION")));
    let help = printed("--help");
    for row in ROWS {
        assert!(help.contains(&format!("--{}", row.name)), "--{}", row.name);
    }
}
