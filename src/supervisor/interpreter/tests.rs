//! Choice among made-up interpreters, and the probe of a real and of broken ones.

use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

/// A folder with an executable of that text at that place.
fn program(folder: &Path, place: &str, text: &str) -> PathBuf {
    let path = folder.join(place);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    path
}

fn environment(pairs: &[(&str, &Path)]) -> Environment {
    pairs.iter().map(|(name, value)| (name.to_string(), value.display().to_string())).collect()
}

#[test]
fn the_order_of_choice() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let on_path = program(dir, "bin/python3", "");
    let versioned = program(dir, "bin/python3.12", "");
    let venv = program(dir, "venv/bin/python", "");
    let launcher = program(dir, "elsewhere/python3", "");
    let path = ("PATH", &*dir.join("bin"));
    let active = ("VIRTUAL_ENV", &*dir.join("venv"));
    let launched = (LAUNCHED_BY, &*launcher);
    let gone = (LAUNCHED_BY, Path::new("/nowhere/python3"));
    let check = |said: Option<&str>, pairs: &[(&str, &Path)], expected: &Path, why: &str| {
        let (found, reason) = choose(said, &environment(pairs)).unwrap();
        assert_eq!(found, expected, "{said:?} {pairs:?}");
        assert!(reason.contains(why), "{reason}");
    };
    check(None, &[path], &on_path, "PATH");
    check(None, &[path, launched], &launcher, "script");
    check(None, &[path, gone], &on_path, "PATH");
    check(None, &[path, launched, active], &venv, "VIRTUAL_ENV");
    check(Some("3.12"), &[path, active], &versioned, "--python");
    check(Some("python3.12"), &[path, active], &versioned, "--python");
    check(dir.join("venv").to_str(), &[path], &venv, "--python");
    check(launcher.to_str(), &[path], &launcher, "--python");
}

#[test]
fn what_is_not_there() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    std::fs::write(dir.join("text"), "").unwrap();
    let empty = ("PATH", dir);
    let check = |said: Option<&str>, pairs: &[(&str, &Path)], message: &str| {
        let fault = choose(said, &environment(pairs)).expect_err(message);
        assert!(fault.message.contains(message), "{}", fault.message);
        assert_eq!(fault.code, ExitCode::Configuration);
        assert!(!fault.hint.is_empty());
    };
    check(None, &[empty], "no python3 on PATH");
    check(None, &[("VIRTUAL_ENV", dir)], "no bin/python");
    check(Some("3.99"), &[empty], "no python3.99 on PATH");
    check(Some("/nowhere/python"), &[], "does not exist");
    check(dir.join("text").to_str(), &[], "is not executable");
    check(dir.to_str(), &[], "without bin/python");
}

#[test]
fn a_link_is_not_resolved() {
    let folder = tempfile::tempdir().unwrap();
    let real = program(folder.path(), "real", "");
    let link = folder.path().join("venv/bin/python");
    std::fs::create_dir_all(link.parent().unwrap()).unwrap();
    symlink(real, &link).unwrap();
    let venv = folder.path().join("venv");
    assert_eq!(choose(venv.to_str(), &Environment::new()).unwrap().0, link);
}

#[test]
fn probes() {
    let folder = tempfile::tempdir().unwrap();
    let said = |text: &str| {
        let path = program(folder.path(), "probed", text);
        let found = Interpreter::find(path.to_str(), &Environment::new(), &Privileges::none());
        std::fs::remove_file(path).unwrap();
        found
    };
    let facts =
        |facts: &str| format!("#!/bin/sh\necho noise\nprintf '\\nringhorn-probe {facts}\\n'\n");
    let found = said(&facts("cpython\\t3.13.1\\t0\\t.x.so\\t/usr")).unwrap();
    assert_eq!((found.version, found.has_one_lock), ((3, 13, 1), false));
    assert_eq!(found.extension_suffix, ".x.so");
    assert!(found.to_string().ends_with("(CPython 3.13.1, free-threaded)"), "{found}");
    for (text, message) in [
        (facts("cpython\\t3.8.9\\t1\\t.so\\t/"), "too old"),
        (facts("pypy\\t3.11.1\\t1\\t.so\\t/"), "not supported"),
        ("#!/bin/sh\necho bad luck >&2; exit 3\n".to_owned(), "bad luck"),
        ("#!/bin/sh\nkill -9 $$\n".to_owned(), "signal: 9"),
        ("#!/nowhere/sh\n".to_owned(), "cannot be run"),
    ] {
        let fault = said(&text).expect_err(message);
        assert!(fault.message.contains(message), "{}", fault.message);
        assert_eq!(fault.code, ExitCode::Worker);
    }
}
