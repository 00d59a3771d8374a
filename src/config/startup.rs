//! What happens around a worker's start, as said: `--preload`, `--hooks`, `--warm-up`.

use super::{ConfigError, Options, limits};

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Startup {
    /// `--hooks`, as said: a module or a file, relative to `--chdir`.
    pub hooks: Option<String>,
    /// `--preload`.
    pub preload: bool,
    /// `--warm-up`: paths or URLs, in order.
    pub warm_up: Vec<String>,
}

impl Startup {
    /// Reads the options.
    ///
    /// # Errors
    /// A value without a meaning.
    pub fn read(said: &Options) -> Result<Startup, ConfigError> {
        let warm_up = said.many("warm-up");
        if warm_up.len() > limits::WARM_UPS_MAX {
            let most = limits::WARM_UPS_MAX;
            let message = format!("--warm-up is said {} times, {most} is the most", warm_up.len());
            return Err(ConfigError::new(message, "name the few pages that load what others need"));
        }
        Ok(Startup {
            preload: said.is_on("preload"),
            hooks: said.one("hooks").map(str::to_owned),
            warm_up: warm_up.into_iter().map(target).collect::<Result<_, _>>()?,
        })
    }
}

/// A path, or a URL of `http` or `https`.
fn target(text: &str) -> Result<String, ConfigError> {
    let rest = ["http://", "https://"].iter().find_map(|scheme| text.strip_prefix(scheme));
    let names_something = match rest {
        Some(rest) => !rest.is_empty() && !rest.starts_with(['/', '?', '#']),
        None => text.starts_with('/'),
    };
    if names_something && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
        return Ok(text.to_owned());
    }
    Err(ConfigError::new(
        format!("--warm-up cannot be `{text}`"),
        "it is a path such as /health, or http://HOST/path; other characters are percent-encoded",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_paths_or_urls() {
        for good in ["/", "/a%20b?c=d", "http://shop.example/x", "https://[::1]:80"] {
            assert_eq!(target(good).as_deref(), Ok(good));
        }
        for bad in ["x", "http://", "http:///x", "ftp://host/", "/a b", "/ä", "/x#y"] {
            assert!(target(bad).is_err(), "{bad}");
        }
    }
}
