//! Starts the binary, waits for log lines, speaks bytes, ends what it started.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Nothing that a test waits for takes this long on any machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Says hello, and what it was asked.
pub const HELLO: &str = r#"
def application(environ, start_response):
    body = ("hello %s" % environ["PATH_INFO"]).encode("latin-1")
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
"#;

/// A folder with an application in `app.py`.
pub fn application(text: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("app.py"), text).unwrap();
    folder
}

/// The binary with a clean environment: variables of whoever runs the tests choose nothing.
pub fn ringhorn() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringhorn"));
    for (name, _) in std::env::vars() {
        let chosen_by = ["PORT", "WEB_CONCURRENCY", "FORWARDED_ALLOW_IPS", "VIRTUAL_ENV"];
        if name.starts_with("RINGHORN_") || chosen_by.contains(&name.as_str()) {
            command.env_remove(name);
        }
    }
    // The interpreter that the module in target/runtime was built for, where make says it.
    if let Ok(python) = std::env::var("PYTHON") {
        command.env("RINGHORN_PYTHON", python);
    }
    command.stdin(Stdio::null());
    command
}

/// Runs the binary to its end.
pub fn run(arguments: &[&str]) -> Output {
    ringhorn().args(arguments).output().unwrap()
}

/// A running server; killed at drop with all its workers, which end with their control sockets.
#[derive(Debug)]
pub struct Server {
    child: Child,
    lines: Receiver<String>,
    /// Every line of standard error so far.
    pub log: Vec<String>,
    address: Option<String>,
}

impl Server {
    /// Starts with these arguments on a free port and waits until a worker is READY.
    pub fn start(folder: &Path, arguments: &[&str]) -> Server {
        let mut command = ringhorn();
        command.args(["app:application", "--bind", "127.0.0.1:0", "--workers", "1"]);
        command.args(arguments).current_dir(folder);
        Server::started(command)
    }

    /// Starts a command and waits until a worker is READY.
    pub fn started(command: Command) -> Server {
        let mut server = Server::spawn(command);
        server.wait_for("ringhorn ready");
        server
    }

    /// Starts a command.
    pub fn spawn(mut command: Command) -> Server {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let stderr = child.stderr.take().unwrap();
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).into_owned();
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Server { child, lines, log: Vec::new(), address: None }
    }

    /// Waits for a line with this text and returns it.
    #[track_caller]
    pub fn wait_for(&mut self, text: &str) -> String {
        let seen = self.log.len();
        self.wait_for_after(seen, text)
    }

    #[track_caller]
    fn wait_for_after(&mut self, seen: usize, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        let mut looked = seen;
        loop {
            while looked < self.log.len() {
                looked += 1;
                if self.log[looked - 1].contains(text) {
                    return self.log[looked - 1].clone();
                }
            }
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    if let Some((_, address)) = line.split_once("listening on http://") {
                        self.address.get_or_insert(address.to_owned());
                    }
                    self.log.push(line);
                }
                Err(RecvTimeoutError::Timeout) => panic!("no `{text}`:\n{}", self.log.join("\n")),
                Err(RecvTimeoutError::Disconnected) => {
                    panic!("ended without `{text}`:\n{}", self.log.join("\n"))
                }
            }
        }
    }

    /// Where the first HTTP listener is, as `host:port` or `unix:…`.
    pub fn address(&self) -> &str {
        self.address.as_deref().expect("it logged no HTTP listener")
    }

    /// The server's process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A connection to the first HTTP listener.
    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// The body of a GET; the status is 200.
    #[track_caller]
    pub fn get(&self, target: &str) -> String {
        let answer = exchange(self.connect(), &closing_get(target));
        let (head, body) = answer.split_once("\r\n\r\n").expect(&answer);
        assert!(head.starts_with("HTTP/1.1 200 "), "{answer}");
        body.to_owned()
    }

    /// Sends a signal.
    pub fn signal(&self, name: &str) {
        signal(self.pid(), name);
    }

    /// Waits for its end; the log is whole then.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            // Standard error ends with the last process that holds it: the server, and its workers.
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => self.log.push(line),
                Err(RecvTimeoutError::Disconnected) => return self.child.wait().unwrap(),
                Err(RecvTimeoutError::Timeout) => panic!("it runs on:\n{}", self.log.join("\n")),
            }
        }
    }

    /// Ends it and returns its exit code.
    #[track_caller]
    pub fn stop(&mut self, signal: &str) -> Option<i32> {
        self.signal(signal);
        self.wait().code()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            self.log.extend(self.lines.try_iter());
            println!("log of the server:\n{}", self.log.join("\n"));
        }
    }
}

/// Sends a signal to a process.
pub fn signal(pid: u32, name: &str) {
    let sent = Command::new("kill").args(["-s", name, &pid.to_string()]).status().unwrap();
    assert!(sent.success());
}

/// A GET after which the server closes.
pub fn closing_get(target: &str) -> Vec<u8> {
    format!("GET {target} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").into_bytes()
}

/// Sends bytes and reads to the end of the stream.
pub fn exchange(mut stream: impl Read + Write, bytes: &[u8]) -> String {
    stream.write_all(bytes).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

/// A connection to a socket file.
pub fn connect_unix(path: impl AsRef<Path>) -> UnixStream {
    let stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// A uwsgi packet of these variables.
pub fn uwsgi_packet(variables: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for text in variables.iter().flat_map(|(name, value)| [name, value]) {
        block.extend_from_slice(&(text.len() as u16).to_le_bytes());
        block.extend_from_slice(text.as_bytes());
    }
    let mut packet = vec![0];
    packet.extend_from_slice(&(block.len() as u16).to_le_bytes());
    packet.push(0);
    packet.extend_from_slice(&block);
    packet
}

/// Asserts code, first error line and hint of a run that failed.
#[track_caller]
pub fn assert_fails(output: &Output, code: i32, error: &str, hint: &str) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{text}");
    let line = |mark: &str| text.lines().find_map(|line| line.strip_prefix(mark)).unwrap_or("");
    assert!(line("error: ").contains(error), "no `{error}` in:\n{text}");
    assert!(line("hint: ").contains(hint), "no `{hint}` in:\n{text}");
}

/// Waits until a condition holds, looking every few milliseconds: for what has no event, such as
/// the end of somebody else's process.
#[track_caller]
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A path as an argument.
pub fn text(path: &(impl AsRef<OsStr> + ?Sized)) -> &str {
    path.as_ref().to_str().unwrap()
}
