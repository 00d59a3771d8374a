//! Values of `--bind`.
//!
//! `[http://|uwsgi://]` then `HOST:PORT`, `[IPv6]:PORT`, `unix:/path`, `unix:@abstract`, `fd://N`
//! or `fd://NAME`, then `?mode=0660&user=NAME&group=NAME` for a socket file. Parsing only: names
//! are resolved and sockets made by `supervisor/listeners.rs`.

use std::fmt;
use std::path::PathBuf;

use super::ConfigError;
use super::settings::ListenerProtocol;

/// Where to listen and what to speak there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bind {
    /// Never guessed: a gateway protocol carries trusted variables.
    pub protocol: ListenerProtocol,
    /// The socket.
    pub endpoint: Endpoint,
    /// What a Unix socket file is to be.
    pub file: SocketFileFacts,
}

/// Mode and owner of a socket file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SocketFileFacts {
    /// `None`: what the umask leaves of 0777.
    pub mode: Option<u32>,
    /// Name or number; `None`: who the server runs as.
    pub user: Option<String>,
    /// Likewise.
    pub group: Option<String>,
}

/// A socket to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// TCP; the host is a name or an address without brackets, port 0 lets the kernel choose.
    Tcp {
        /// Name or address.
        host: String,
        /// Port.
        port: u16,
    },
    /// A socket file.
    UnixPath(PathBuf),
    /// A name in the kernel's abstract namespace, without its leading NUL.
    UnixAbstract(String),
    /// A listening socket that was inherited under this number.
    Descriptor(i32),
    /// The listening sockets that systemd calls so (`FileDescriptorName=`).
    Named(String),
}

/// Longest path or abstract name: `sockaddr_un.sun_path` is 108 bytes, one is a NUL (unix(7)).
const UNIX_NAME_BYTES_MAX: usize = 107;

const FORMS: &str =
    "HOST:PORT, [::1]:PORT, unix:/path, unix:@name, fd://N or fd://NAME, after http:// or uwsgi://";

impl Bind {
    /// Reads one `--bind`.
    ///
    /// # Errors
    /// What is wrong with it, and what would be right.
    pub fn parse(text: &str) -> Result<Bind, ConfigError> {
        let (protocol, rest) = split_protocol(text)?;
        let (address, query) = match rest.split_once('?') {
            Some((address, query)) => (address, Some(query)),
            None => (rest, None),
        };
        let endpoint = if let Some(name) = address.strip_prefix("unix:") {
            unix(text, name)?
        } else if let Some(number) = address.strip_prefix("fd://") {
            descriptor(text, number)?
        } else {
            tcp(text, address)?
        };
        if query.is_some() && !matches!(endpoint, Endpoint::UnixPath(_)) {
            return Err(refuse(text, "only a Unix socket file has a mode and an owner"));
        }
        let file = query.map(|query| socket_file(text, query)).transpose()?.unwrap_or_default();
        Ok(Bind { protocol, endpoint, file })
    }
}

fn split_protocol(text: &str) -> Result<(ListenerProtocol, &str), ConfigError> {
    let Some((scheme, rest)) = text.split_once("://") else {
        return Ok((ListenerProtocol::Http, text));
    };
    match scheme {
        "http" => Ok((ListenerProtocol::Http, rest)),
        "uwsgi" => Ok((ListenerProtocol::Uwsgi, rest)),
        "fd" => Ok((ListenerProtocol::Http, text)),
        "https" => Err(refuse(text, "TLS is not spoken here: put nginx in front")),
        "fastcgi" | "scgi" => {
            Err(refuse(text, "this version speaks http and uwsgi; nginx can send either"))
        }
        "unix" => Err(refuse(text, "a Unix socket is written unix:/path, with one slash")),
        _ => Err(refuse(text, &format!("`{scheme}` is no protocol: it is http or uwsgi"))),
    }
}

fn unix(text: &str, name: &str) -> Result<Endpoint, ConfigError> {
    let length = name.len() - usize::from(name.starts_with('@'));
    if length == 0 || length > UNIX_NAME_BYTES_MAX {
        let hint = format!("a Unix socket's name has 1 to {UNIX_NAME_BYTES_MAX} bytes");
        return Err(refuse(text, &hint));
    }
    Ok(match name.strip_prefix('@') {
        Some(name) => Endpoint::UnixAbstract(name.to_owned()),
        None => Endpoint::UnixPath(PathBuf::from(name)),
    })
}

fn tcp(text: &str, address: &str) -> Result<Endpoint, ConfigError> {
    let (host, port) = address.rsplit_once(':').ok_or_else(|| {
        let digits = !address.is_empty() && address.bytes().all(|byte| byte.is_ascii_digit());
        let hint = if digits { format!("did you mean 127.0.0.1:{address}?") } else { forms() };
        refuse(text, &hint)
    })?;
    let port = port.parse().map_err(|_| refuse(text, "the port is a number from 0 to 65535"))?;
    let bracketed = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    if bracketed.is_none() && host.contains(':') {
        return Err(refuse(text, "an IPv6 address is written in brackets: [::1]:8000"));
    }
    let host = bracketed.unwrap_or(host);
    if host.is_empty() {
        return Err(refuse(text, &format!("for every interface say 0.0.0.0:{port}")));
    }
    if host.contains(['/', ' ', '@', '[', ']']) {
        return Err(refuse(text, &forms()));
    }
    Ok(Endpoint::Tcp { host: host.to_owned(), port })
}

/// What stands behind `?`: settings between `&`, each once.
fn socket_file(text: &str, query: &str) -> Result<SocketFileFacts, ConfigError> {
    const SETTINGS: &str = "behind `?` stand mode=, user= and group=, such as ?mode=0660&group=www";
    let mut file = SocketFileFacts::default();
    for piece in query.split('&') {
        let (name, value) = piece.split_once('=').ok_or_else(|| refuse(text, SETTINGS))?;
        let is_said = match name {
            "mode" => file.mode.replace(mode(text, value)?).is_some(),
            "user" | "group" if value.is_empty() => return Err(refuse(text, SETTINGS)),
            "user" => file.user.replace(value.to_owned()).is_some(),
            "group" => file.group.replace(value.to_owned()).is_some(),
            _ => return Err(refuse(text, SETTINGS)),
        };
        if is_said {
            return Err(refuse(text, &format!("{name}= is said twice")));
        }
    }
    Ok(file)
}

fn mode(text: &str, digits: &str) -> Result<u32, ConfigError> {
    u32::from_str_radix(digits, 8)
        .ok()
        .filter(|mode| *mode <= 0o777 && !digits.starts_with('+'))
        .ok_or_else(|| refuse(text, "a mode is octal, such as 0660"))
}

/// A number, or a name in the letters that systemd allows (sd_listen_fds_with_names(3)).
fn descriptor(text: &str, said: &str) -> Result<Endpoint, ConfigError> {
    if let Some(number) = said.parse().ok().filter(|number| *number >= 0) {
        return Ok(Endpoint::Descriptor(number));
    }
    let is_name = said.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':')
        && !said.starts_with(|first: char| first.is_ascii_digit() || "+-".contains(first))
        && (1..=255).contains(&said.len());
    if !is_name {
        return Err(refuse(text, "fd:// takes a number, or a name of FileDescriptorName="));
    }
    Ok(Endpoint::Named(said.to_owned()))
}

fn forms() -> String {
    format!("an address is {FORMS}")
}

fn refuse(text: &str, hint: &str) -> ConfigError {
    ConfigError::new(format!("cannot listen on `{text}`"), hint)
}

impl fmt::Display for ListenerProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ListenerProtocol::Http => "http",
            ListenerProtocol::Uwsgi => "uwsgi",
        })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Endpoint::Tcp { host, port } => write!(f, "{host}:{port}"),
            Endpoint::UnixPath(path) => write!(f, "unix:{}", path.display()),
            Endpoint::UnixAbstract(name) => write!(f, "unix:@{name}"),
            Endpoint::Descriptor(number) => write!(f, "fd://{number}"),
            Endpoint::Named(name) => write!(f, "fd://{name}"),
        }
    }
}

impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.endpoint {
            Endpoint::Descriptor(_) | Endpoint::Named(_)
                if self.protocol == ListenerProtocol::Http =>
            {
                write!(f, "{}", self.endpoint)
            }
            endpoint => write!(f, "{}://{endpoint}", self.protocol),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ListenerProtocol::{Http, Uwsgi};

    fn tcp(host: &str, port: u16) -> Endpoint {
        Endpoint::Tcp { host: host.to_owned(), port }
    }

    #[test]
    fn accepts() {
        let check = |text: &str, protocol, endpoint, mode| {
            let file = SocketFileFacts { mode, ..SocketFileFacts::default() };
            assert_eq!(Bind::parse(text), Ok(Bind { protocol, endpoint, file }), "{text}");
        };
        let path = |text: &str| Endpoint::UnixPath(PathBuf::from(text));
        check("127.0.0.1:8000", Http, tcp("127.0.0.1", 8000), None);
        check("http://localhost:0", Http, tcp("localhost", 0), None);
        check("[::1]:80", Http, tcp("::1", 80), None);
        check("uwsgi://[::]:80", Uwsgi, tcp("::", 80), None);
        check("unix:/run/a.sock", Http, path("/run/a.sock"), None);
        check("unix:a.sock", Http, path("a.sock"), None);
        check("uwsgi://unix:/run/a.sock?mode=0660", Uwsgi, path("/run/a.sock"), Some(0o660));
        check("unix:@name", Http, Endpoint::UnixAbstract("name".to_owned()), None);
        check("fd://3", Http, Endpoint::Descriptor(3), None);
        check("uwsgi://fd://3", Uwsgi, Endpoint::Descriptor(3), None);
        check("fd://web.http", Http, Endpoint::Named("web.http".to_owned()), None);
        check("uwsgi://fd://web", Uwsgi, Endpoint::Named("web".to_owned()), None);
    }

    #[test]
    fn socket_files_have_mode_and_owner() {
        let file = Bind::parse("unix:/a?group=www-data&mode=0660&user=33").unwrap().file;
        let (user, group) = (Some("33".to_owned()), Some("www-data".to_owned()));
        assert_eq!(file, SocketFileFacts { mode: Some(0o660), user, group });
    }

    #[test]
    fn refuses() {
        let long = format!("unix:/{}", "x".repeat(UNIX_NAME_BYTES_MAX));
        for text in [
            "",
            "8000",
            ":8000",
            "localhost",
            "localhost:",
            "localhost:http",
            "1.2.3.4:65536",
            "::1:8000",
            "unix:",
            "unix:@",
            "unix:///run/x",
            "fd://",
            "fd://-1",
            "fd://3x",
            "fd://a:b",
            "fd://a b",
            "unix:/a?mode=0600&mode=0660",
            "unix:/a?user=",
            "unix:/a?user",
            "unix:/a?",
            "unix:@a?user=root",
            "fd://3?group=root",
            "https://a:1",
            "fastcgi://a:1",
            "gopher://a:1",
            "a:1?mode=0660",
            "unix:/a?mod=1",
            "unix:/a?mode=9",
            "unix:/a?mode=7777",
            "unix:/a?mode=",
            "http://a:1/path",
            &long,
        ] {
            assert!(Bind::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn spelled_as_said() {
        for text in ["http://[::1]:80", "uwsgi://unix:/run/a", "fd://3", "uwsgi://fd://3", "fd://a"]
        {
            assert_eq!(Bind::parse(text).unwrap().to_string(), text);
        }
    }
}
