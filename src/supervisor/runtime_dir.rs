//! Where the runtime modules are: the Python files that boot a worker, and the native module.
//!
//! In `--runtime-dir`, beside the real executable, in `../runtime` (a checkout: `target/runtime`
//! beside `target/release`), or in `../lib/ringhorn`. Whether a module fits this server is told by
//! the worker's first message, which carries version and layout.

use std::path::{Path, PathBuf};

use super::fault::{ExitCode, Fault};
use super::interpreter::Interpreter;

/// The first Python code of a worker.
const BOOTSTRAP: &str = "_bootstrap.py";
/// The module for any CPython that has no own one.
const ABI3_MODULE: &str = "_ringhorn.abi3.so";

/// The folder whose modules serve an interpreter.
///
/// # Errors
/// There is none, or it has no module for this interpreter.
pub fn find(said: Option<&Path>, interpreter: &Interpreter) -> Result<PathBuf, Fault> {
    let folders = match said {
        Some(folder) => vec![folder.to_owned()],
        None => beside_executable()?,
    };
    let Some(folder) = folders.iter().find(|folder| folder.join(BOOTSTRAP).is_file()) else {
        let shown: Vec<String> =
            folders.iter().map(|folder| folder.display().to_string()).collect();
        return Err(unusable(
            format!("no runtime modules in {}", shown.join(", ")),
            "install the ringhorn package whole, run `make build` in a checkout, or say --runtime-dir",
        ));
    };
    let own = format!("_ringhorn{}", interpreter.extension_suffix);
    if !folder.join(&own).is_file() && !folder.join(ABI3_MODULE).is_file() {
        return Err(unusable(
            format!("{} has neither {own} nor {ABI3_MODULE}", folder.display()),
            "in a checkout, `make build PYTHON=...` builds the module for an interpreter",
        ));
    }
    Ok(folder.clone())
}

fn beside_executable() -> Result<Vec<PathBuf>, Fault> {
    let executable = std::env::current_exe().and_then(|path| path.canonicalize());
    let executable = executable.map_err(|error| {
        unusable(format!("cannot tell where the executable is: {error}"), "say --runtime-dir")
    })?;
    let folder = executable.parent().unwrap_or(Path::new("/"));
    let above = folder.parent().unwrap_or(Path::new("/"));
    Ok(vec![folder.to_owned(), above.join("runtime"), above.join("lib/ringhorn")])
}

fn unusable(message: impl Into<String>, hint: impl Into<String>) -> Fault {
    Fault::new(ExitCode::Worker, message, hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interpreter() -> Interpreter {
        Interpreter {
            executable: PathBuf::from("/python"),
            reason: String::new(),
            implementation: "cpython".to_owned(),
            version: (3, 11, 0),
            has_one_lock: true,
            extension_suffix: ".cpython-311-x86_64-linux-gnu.so".to_owned(),
        }
    }

    #[test]
    fn needs_a_bootstrap_and_a_module() {
        let folder = tempfile::tempdir().unwrap();
        let find = || find(Some(folder.path()), &interpreter());
        assert!(find().expect_err("empty").message.contains("no runtime modules"));
        std::fs::write(folder.path().join(BOOTSTRAP), "").unwrap();
        assert!(find().expect_err("no module").message.contains("cpython-311"));
        for module in [ABI3_MODULE, "_ringhorn.cpython-311-x86_64-linux-gnu.so"] {
            let module = folder.path().join(module);
            std::fs::write(&module, "").unwrap();
            assert_eq!(find().unwrap(), folder.path());
            std::fs::remove_file(module).unwrap();
        }
    }
}
