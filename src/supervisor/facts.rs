//! What hooks and warm-up requests are told of the server, by name.
//!
//! Workers get it in `Setup.options`, processes that run a hook of the server on their command
//! line.

use crate::config::{Config, ListenerFacts};

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct ServerFacts {
    /// Where it listens, as the log says it; empty before anything is bound.
    addresses: Vec<String>,
    /// `SERVER_NAME` and `SERVER_PORT` of its first listener.
    first: Option<(String, String)>,
}

impl ServerFacts {
    /// Of what is bound.
    pub fn of<'a>(urls: impl Iterator<Item = &'a str>, listeners: &[ListenerFacts]) -> ServerFacts {
        let first = listeners.first().map(|first| {
            // A request says which of the machine's names it wants; this is what none says.
            let is_any = matches!(first.server_name.as_str(), "0.0.0.0" | "::");
            let name = if is_any { "localhost" } else { &first.server_name };
            (name.to_owned(), first.server_port.clone())
        });
        ServerFacts { addresses: urls.map(str::to_owned).collect(), first }
    }

    /// Pairs for whoever calls hooks.
    pub fn for_hooks(&self, config: &Config) -> Vec<(String, String)> {
        let Some(hooks) = &config.startup.hooks else { return Vec::new() };
        let mut facts = vec![
            pair("hooks", hooks),
            pair("server-pid", &std::process::id().to_string()),
            pair("version", env!("CARGO_PKG_VERSION")),
        ];
        facts.extend(self.addresses.iter().map(|address| pair("address", address)));
        facts
    }

    /// Pairs for a worker.
    pub fn for_worker(&self, config: &Config) -> Vec<(String, String)> {
        let mut facts = self.for_hooks(config);
        if !config.startup.warm_up.is_empty() {
            let localhost = ("localhost".to_owned(), "80".to_owned());
            let (name, port) = self.first.as_ref().unwrap_or(&localhost);
            facts.extend([pair("server-name", name), pair("server-port", port)]);
            facts.extend(config.startup.warm_up.iter().map(|target| pair("warm-up", target)));
        }
        facts
    }
}

fn pair(name: &str, value: &str) -> (String, String) {
    (name.to_owned(), value.to_owned())
}
