//! What was said: command line and environment, read by the rows of [`super::options`].
//!
//! The command line comes before the environment, the environment before a row's default. Values
//! are checked on their face here (range, unit, word), so that an error names the place they came
//! from.

use std::collections::BTreeMap;
use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, ArgMatches, Command};

use super::ConfigError;
use super::activation;
use super::options::{self, ROWS, Row, Takes};
use super::suggest;
use super::value;

/// Name of the positional argument.
const APPLICATION: &str = "application";
/// Its environment variable.
const APPLICATION_VARIABLE: &str = "RINGHORN_APPLICATION";
/// Exported by the `ringhorn` console script: the interpreter that ran it.
pub const LAUNCHED_BY: &str = "RINGHORN_LAUNCHED_BY";
/// Port for the default `--bind`, as platforms set it.
const PORT: &str = "PORT";

/// Options as they were said, by row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The application, if one was named.
    pub application: Option<String>,
    /// One entry a row that was said, with its values in order.
    values: BTreeMap<usize, Vec<String>>,
    /// What is odd but harmless, to be logged once a log is open.
    pub warnings: Vec<String>,
}

/// The environment as read once at start; names and values that are not UTF-8 are of no interest
/// here.
pub type Environment = BTreeMap<String, String>;

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Asked {
    /// To serve (or check) with these options.
    Serve(Options),
    /// To print this (`--help`, `--version`) and leave.
    Print(String),
}

impl Options {
    /// Reads a command line (program name first) and an environment.
    ///
    /// # Errors
    /// An unknown option, with a suggestion; a value that is not legal on its face.
    pub fn read(
        arguments: impl IntoIterator<Item = OsString>,
        environment: &Environment,
    ) -> Result<Asked, ConfigError> {
        let matches = match command().try_get_matches_from(arguments) {
            Ok(matches) => matches,
            Err(error) => return answer(&error),
        };
        let mut said = Options {
            application: one(&matches, APPLICATION).or_else(|| {
                environment.get(APPLICATION_VARIABLE).filter(|name| !name.is_empty()).cloned()
            }),
            ..Options::default()
        };
        for (index, row) in ROWS.iter().enumerate() {
            let values = match from_command_line(&matches, row)? {
                Some(values) => Some(values),
                None => from_environment(environment, row)?,
            };
            if let Some(values) = values {
                said.values.insert(index, values);
            }
        }
        said.warn_of_unknown_variables(environment);
        Ok(Asked::Serve(said))
    }

    /// Values of an option that may be repeated; its default if it was not said.
    pub fn many(&self, name: &str) -> Vec<&str> {
        let (index, row) = options::row(name);
        match self.values.get(&index) {
            Some(values) => values.iter().map(String::as_str).collect(),
            None if row.default.is_empty() => Vec::new(),
            None => vec![row.default],
        }
    }

    /// Value of an option; its default if it was not said; `None` if it has no default either.
    pub fn one(&self, name: &str) -> Option<&str> {
        self.many(name).last().copied()
    }

    /// Whether a switch is on.
    pub fn is_on(&self, name: &str) -> bool {
        self.one(name).is_some_and(|text| value::switch(text) == Ok(true))
    }

    /// Whether anything was said about an option.
    pub fn is_said(&self, name: &str) -> bool {
        self.values.contains_key(&options::row(name).0)
    }

    fn warn_of_unknown_variables(&mut self, environment: &Environment) {
        let known: Vec<String> = ROWS.iter().map(Row::variable).collect();
        let ours = |name: &&String| name.starts_with("RINGHORN_");
        for name in environment.keys().filter(ours) {
            let internal = [LAUNCHED_BY, APPLICATION_VARIABLE, activation::UPGRADE];
            if known.contains(name) || internal.contains(&name.as_str()) {
                continue;
            }
            // Orchestrators set variables after service names (RINGHORN_PORT_8000_TCP…): only what
            // looks like a slip of the pen is worth a line.
            if let Some(nearest) = suggest::nearest(name, known.iter().map(String::as_str)) {
                let warning =
                    format!("environment variable {name} is unknown: did you mean {nearest}?");
                self.warnings.push(warning);
            }
        }
    }
}

/// The command line as clap reads it, made from the rows.
pub fn command() -> Command {
    let mut command = Command::new("ringhorn")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Serves a Python WSGI application.")
        .override_usage("ringhorn [OPTIONS] APPLICATION")
        .args_override_self(false)
        .infer_long_args(false)
        .arg(Arg::new(APPLICATION).value_name("APPLICATION").help(
            "module:callable, module:factory(), file.py or file.py:attribute; \
             the attribute defaults to `application`, then `app`",
        ));
    for section in options::SECTIONS {
        command = command.next_help_heading(*section);
        for row in ROWS.iter().filter(|row| row.section == *section) {
            command = command.arg(argument(row));
        }
    }
    command
}

fn argument(row: &'static Row) -> Arg {
    let mut help = row.doc.trim_end_matches('.').to_owned();
    if !row.default.is_empty() {
        help.push_str(&format!(" [default: {}]", row.default));
    }
    let arg = Arg::new(row.name).long(row.name).help(row.summary()).long_help(help);
    let arg = match row.short {
        Some(short) => arg.short(short),
        None => arg,
    };
    match row.value_name() {
        None => arg.action(ArgAction::SetTrue),
        Some(name) => {
            let many = matches!(row.takes, Takes::Many(_));
            let action = if many { ArgAction::Append } else { ArgAction::Set };
            // `-1` after an option is a bad value of it, not an unknown option.
            arg.action(action).value_name(name).allow_negative_numbers(true)
        }
    }
}

fn one(matches: &ArgMatches, name: &str) -> Option<String> {
    matches.get_one::<String>(name).cloned()
}

fn from_command_line(matches: &ArgMatches, row: &Row) -> Result<Option<Vec<String>>, ConfigError> {
    let values: Vec<String> = match row.takes {
        Takes::Nothing if matches.get_flag(row.name) => vec!["1".to_owned()],
        Takes::Nothing => Vec::new(),
        _ => matches.get_many::<String>(row.name).into_iter().flatten().cloned().collect(),
    };
    if values.is_empty() {
        return Ok(None);
    }
    for text in &values {
        value::check(row, text)
            .map_err(|hint| ConfigError::new(format!("--{} cannot be `{text}`", row.name), hint))?;
    }
    Ok(Some(values))
}

fn from_environment(
    environment: &Environment,
    row: &Row,
) -> Result<Option<Vec<String>>, ConfigError> {
    let own = row.variable();
    let variables = [Some(own.as_str()), row.also];
    for name in variables.into_iter().flatten() {
        let Some(text) = environment.get(name).filter(|text| !text.is_empty()) else { continue };
        let values = match row.takes {
            Takes::Many(_) => listed(text),
            _ => vec![text.clone()],
        };
        for text in &values {
            value::check(row, text).map_err(|hint| {
                ConfigError::new(format!("{name} in the environment cannot be `{text}`"), hint)
            })?;
        }
        return Ok(Some(values));
    }
    // Platforms say the port they route to; they route to every interface. Sockets that are passed
    // say more.
    let is_asked = row.name == "bind"
        && environment.contains_key(PORT)
        && activation::passed(environment, std::process::id())?.is_empty();
    match environment.get(PORT).filter(|port| is_asked && !port.is_empty()) {
        None => Ok(None),
        Some(port) => match value::number(port, 1, 65_535) {
            Ok(port) => Ok(Some(vec![format!("0.0.0.0:{port}")])),
            Err(hint) => Err(ConfigError::new(
                format!("{PORT} in the environment cannot be `{port}`"),
                format!("{hint}; or say --bind"),
            )),
        },
    }
}

/// A list in one variable: lines if there are several, else pieces between commas.
fn listed(text: &str) -> Vec<String> {
    let separator = if text.contains('\n') { '\n' } else { ',' };
    let pieces = text.split(separator).map(str::trim).filter(|piece| !piece.is_empty());
    pieces.map(str::to_owned).collect()
}

/// Turns clap's refusal into ours, and its help into text.
fn answer(error: &clap::Error) -> Result<Asked, ConfigError> {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        Some(ContextValue::Strings(texts)) => texts.join(", "),
        _ => String::new(),
    };
    let said = text(ContextKind::InvalidArg);
    let see_help = || "`ringhorn --help` lists every option".to_owned();
    Err(match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            return Ok(Asked::Print(error.to_string()));
        }
        ErrorKind::UnknownArgument if said.starts_with('-') => {
            let hint = suggest::option(&said).unwrap_or_else(see_help);
            ConfigError::new(format!("unknown option `{said}`"), hint)
        }
        ErrorKind::UnknownArgument | ErrorKind::TooManyValues => ConfigError::new(
            format!("`{said}` is one argument too many"),
            "one application is served; options come with two dashes",
        ),
        ErrorKind::ArgumentConflict => ConfigError::new(
            format!("`{said}` was given twice"),
            "only --bind, --env and --pythonpath may be repeated",
        ),
        ErrorKind::InvalidValue | ErrorKind::NoEquals | ErrorKind::WrongNumberOfValues => {
            ConfigError::new(format!("`{said}` takes a value"), see_help())
        }
        ErrorKind::InvalidUtf8 => {
            ConfigError::new("an argument is not UTF-8", "rename the file or folder it names")
        }
        _ => ConfigError::new(
            error.to_string().lines().next().unwrap_or_default().trim_start_matches("error: "),
            see_help(),
        ),
    })
}

#[cfg(test)]
mod tests;
