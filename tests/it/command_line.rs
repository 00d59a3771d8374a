//! What is refused before anything is served, and `--check`.

use std::net::TcpListener;

use crate::harness::{HELLO, application, assert_fails, ringhorn, run, text};

#[test]
fn what_was_said_wrong_is_code_2() {
    let check = |line: &str, error: &str, hint: &str| {
        let arguments: Vec<&str> = line.split_whitespace().collect();
        assert_fails(&run(&arguments), 2, error, hint);
    };
    check("", "no application", "ringhorn module:application");
    check("a:b --wrokers 2", "unknown option `--wrokers`", "`--workers`");
    check("a:b --workers many", "--workers cannot be `many`", "from 1 to");
    check("a:b --bind gopher://x:1", "cannot listen on", "http or uwsgi");
    check("a:b --body-buffer-size 1GiB", "--body-buffer-size (1GiB)", "raise --b");
    check("a:b --python /nowhere/python", "/nowhere/python does not exist", "virtual environment");
    check("a:b --access-logformat %(nonsense)s", "%(nonsense)s", "docs/access-log.md");
    check("a:b --access-logformat %(s)s --error-logfile /nowhere/log", "/nowhere/log", "folder");
}

#[test]
fn environment_is_read_and_refused_by_name() {
    let output = ringhorn().arg("a:b").env("RINGHORN_KEEP_ALIVE", "soon").output().unwrap();
    assert_fails(&output, 2, "RINGHORN_KEEP_ALIVE", "seconds");
    let output = ringhorn().arg("a:b").env("WEB_CONCURRENCY", "x").output().unwrap();
    assert_fails(&output, 2, "WEB_CONCURRENCY", "auto");
}

#[test]
fn help_and_version_are_data_on_standard_output() {
    let output = run(&["--version"]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        concat!("ringhorn ", env!("CARGO_PKG_VERSION"), "\n")
    );
    let output = run(&["--help"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&output.stdout).contains("--graceful-timeout"));
    assert!(output.stderr.is_empty());
}

#[test]
fn an_address_in_use_is_code_2() {
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap().to_string();
    let output = run(&["a:b", "--bind", &address]);
    assert_fails(&output, 2, "another process listens there", "--bind");
}

#[test]
fn an_interpreter_that_cannot_run_is_code_4() {
    assert_fails(&run(&["a:b", "--python", "/bin/false"]), 4, "/bin/false", "--python");
    let empty = tempfile::tempdir().unwrap();
    let output = run(&["a:b", "--runtime-dir", text(empty.path())]);
    assert_fails(&output, 4, "no runtime modules", "--runtime-dir");
}

#[test]
fn a_check_says_ok() {
    let folder = application(HELLO);
    let output = ringhorn().args(["app", "--check"]).current_dir(folder.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.stdout, b"OK\n");
}

#[test]
fn an_application_that_cannot_be_loaded_is_code_3() {
    let broken = application("import not_there_at_all\n");
    let empty = application("");
    let crashing = application("import os\nos.abort()\n");
    let leaving = application("raise SystemExit(0)\n");
    for (folder, error, hint) in [
        (&broken, "app cannot be imported: ModuleNotFoundError", "--chdir"),
        (&empty, "app has no attribute 'application'", "name the callable"),
        (&crashing, "signal: 6", "native module"),
        (&leaving, "SystemExit", ""),
    ] {
        for more in [&["--check"][..], &["--bind", "127.0.0.1:0", "--workers", "2"]] {
            let mut command = ringhorn();
            command.arg("app:application").args(more).current_dir(folder.path());
            assert_fails(&command.output().unwrap(), 3, error, hint);
        }
    }
}

#[test]
fn one_traceback_is_printed_whole() {
    let folder = application("def f():\n    import not_there_at_all\nf()\n");
    let mut command = ringhorn();
    command.args(["app:application", "--bind", "127.0.0.1:0", "--workers", "3"]);
    let output = command.current_dir(folder.path()).output().unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    assert_eq!(log.matches("Traceback (most recent call last)").count(), 1, "{log}");
    assert!(log.contains("line 2, in f"), "{log}");
}
