//! `ringhorn reload` and its kin: command lines that ask a running server instead of starting one.
//!
//! Not on the walk of a request. A word is a command only as the first argument and without a colon
//! or a dot, so it cannot be mistaken for an application (`reload:application`, `reload.py`).

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{Arg, Command, value_parser};

use super::ConfigError;

/// Words that ask a running server, each with what it does.
pub const WORDS: [(&str, &str); 2] = [
    ("reload", "Has a running server start its application anew, and waits until that serves."),
    ("status", "Tells how a running server and its workers are."),
];

/// What is asked of whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asking {
    /// One of [`WORDS`].
    pub word: &'static str,
    /// `--control-socket`, as said.
    pub socket: Option<PathBuf>,
    /// `--server-pid`.
    pub pid: Option<u32>,
}

/// What such a command line comes to.
#[derive(Debug)]
pub enum Read {
    /// It asks.
    Ask(Asking),
    /// It wants this printed.
    Print(String),
}

/// Reads a command line if it is one of these.
///
/// # Errors
/// It is one, with arguments that make no sense.
pub fn read(arguments: &[OsString]) -> Result<Option<Read>, ConfigError> {
    let first = arguments.get(1).and_then(|word| word.to_str());
    let known = |word: &str| WORDS.iter().find(|(known, _)| *known == word);
    let Some((word, about)) = first.and_then(known) else { return Ok(None) };
    let command = Command::new("ringhorn")
        .override_usage(format!("ringhorn {word} [--control-socket PATH | --server-pid PID]"))
        .about(*about)
        .arg(
            Arg::new("control-socket")
                .long("control-socket")
                .value_name("PATH")
                .value_parser(value_parser!(PathBuf))
                .conflicts_with("server-pid")
                .help("the server's control socket, as --control-socket of the server names it"),
        )
        .arg(
            Arg::new("server-pid")
                .long("server-pid")
                .value_name("PID")
                .value_parser(value_parser!(u32).range(1..))
                .help("which server, where several run"),
        );
    let rest = arguments.iter().take(1).chain(arguments.iter().skip(2));
    match command.try_get_matches_from(rest) {
        Ok(found) => Ok(Some(Read::Ask(Asking {
            word,
            socket: found.get_one::<PathBuf>("control-socket").cloned(),
            pid: found.get_one::<u32>("server-pid").copied(),
        }))),
        Err(error) if error.kind() == ErrorKind::DisplayHelp => {
            Ok(Some(Read::Print(error.to_string())))
        }
        Err(error) => {
            let text = error.to_string();
            let first = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
            Err(ConfigError::new(first, format!("`ringhorn {word} --help` says what it takes")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Option<Read>, ConfigError> {
        let arguments: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        super::read(&arguments)
    }

    fn asking(line: &str) -> Asking {
        match read(line) {
            Ok(Some(Read::Ask(asking))) => asking,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn words_ask_and_applications_do_not() {
        assert_eq!(asking("ringhorn reload").word, "reload");
        assert_eq!(asking("ringhorn status --server-pid 7").pid, Some(7));
        let socket = asking("ringhorn reload --control-socket /run/x.ctl").socket;
        assert_eq!(socket, Some(PathBuf::from("/run/x.ctl")));
        for line in
            ["ringhorn", "ringhorn reload:app", "ringhorn reload.py", "ringhorn -w 1 reload"]
        {
            assert!(matches!(read(line), Ok(None)), "{line}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for line in [
            "ringhorn reload now",
            "ringhorn reload --server-pid 0",
            "ringhorn reload --server-pid 1 --control-socket x",
            "ringhorn status --bind x",
        ] {
            assert!(read(line).is_err(), "{line}");
        }
    }
}
