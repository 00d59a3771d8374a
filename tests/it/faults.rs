//! What a hostile host or a wild worker does to a server.

use std::io::Write;
use std::process::Command;

use crate::harness::{
    HELLO, Server, application, assert_fails, closing_get, eventually, exchange, ringhorn,
};

/// Lets the kernel refuse io_uring_setup with EPERM from now on, as the default seccomp profile of
/// container engines does, and becomes its arguments.
const WITHOUT_IO_URING: &str = "
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
step = lambda code, jump, other, value: struct.pack('HBBI', code, jump, other, value)
program = b''.join([
    step(0x20, 0, 0, 0),                # load the number of the system call
    step(0x15, 0, 1, 425),              # io_uring_setup?
    step(0x06, 0, 0, 0x00050000 | 1),   # EPERM
    step(0x06, 0, 0, 0x7fff0000),       # allow
])
code = ctypes.create_string_buffer(program, len(program))
filter = struct.pack('HxxxxxxP', len(program) // 8, ctypes.addressof(code))
assert libc.prctl(38, 1, 0, 0, 0) == 0           # PR_SET_NO_NEW_PRIVS
assert libc.prctl(22, 2, filter, 0, 0) == 0      # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
os.execv(sys.argv[1], sys.argv[1:])
";

#[test]
fn a_kernel_that_refuses_io_uring_is_code_5() {
    let folder = application(HELLO);
    let mut command = Command::new("python3");
    command.args(["-c", WITHOUT_IO_URING, env!("CARGO_BIN_EXE_ringhorn"), "app:application"]);
    command.args(["--bind", "127.0.0.1:0"]).current_dir(folder.path());
    assert_fails(&command.output().unwrap(), 5, "io_uring", "seccomp");
}

/// `/scribble` writes noise over every shared mapping that the worker may write, again and again,
/// then answers.
const WILD: &str = r#"
import os, random
def application(environ, start_response):
    if environ["PATH_INFO"] == "/scribble":
        places = []
        for line in open("/proc/self/maps"):
            fields = line.split()
            if fields[1] == "rw-s" and "memfd" in line:
                low, high = (int(bound, 16) for bound in fields[0].split("-"))
                places.append((low, high))
        memory = os.open("/proc/self/mem", os.O_RDWR)
        seed = random.Random(int(environ["QUERY_STRING"]))
        for _ in range(200):
            for low, high in places:
                start = low + seed.randrange(min(high - low, 1 << 16)) // 8 * 8
                try:
                    os.pwrite(memory, seed.randbytes(seed.choice([8, 64, 512])), start)
                except OSError:
                    pass
        os.close(memory)
    start_response("200 OK", [("Content-Length", "2"), ("X-Pid", str(os.getpid()))])
    return [b"ok"]
"#;

#[test]
fn the_server_survives_a_worker_that_scribbles() {
    let folder = application(WILD);
    let more = ["--workers", "2", "--event-loops", "2"];
    let mut command = ringhorn();
    command.args(["app:application", "--bind", "127.0.0.1:0"]).args(more);
    let mut server = Server::started({
        command.current_dir(folder.path());
        command
    });
    for seed in 0..12 {
        let mut wild = server.connect();
        wild.write_all(&closing_get(&format!("/scribble?{seed}"))).unwrap();
        // Whatever becomes of that request, the server answers others: those caught in the same
        // memory may be cut, those after its replacement are not.
        eventually("it serves again", || {
            let mut stream = server.connect();
            stream.write_all(&closing_get("/")).unwrap();
            let mut answer = Vec::new();
            std::io::Read::read_to_end(&mut stream, &mut answer).is_ok()
                && answer.starts_with(b"HTTP/1.1 200 OK")
        });
    }
    assert_eq!(server.stop("INT"), Some(0));
    let log = server.log.join("\n");
    assert!(log.contains("killed"), "the incident is logged:\n{log}");
}

/// Starts a grandchild that outlives its parent and ends later.
const ORPHANS: &str = r#"
import os, time
def application(environ, start_response):
    if os.fork() == 0:
        if os.fork() == 0:
            open("orphan", "w").write(str(os.getpid()))
            while not os.path.exists("go"):
                time.sleep(0.005)
        os._exit(0)
    os.wait()
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"#;

/// Takes orphans below it, as PID 1 of a container does, and becomes its arguments.
const AS_REAPER: &str = "
import ctypes, os, sys
assert ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0  # PR_SET_CHILD_SUBREAPER, kept over exec
os.execv(sys.argv[1], sys.argv[1:])
";

#[test]
fn orphans_are_reaped() {
    let folder = application(ORPHANS);
    let mut command = Command::new("python3");
    command.args(["-c", AS_REAPER, env!("CARGO_BIN_EXE_ringhorn"), "app:application"]);
    command.args(["--bind", "127.0.0.1:0", "--workers", "1"]).current_dir(folder.path());
    let mut server = Server::started(command);
    assert!(exchange(server.connect(), &closing_get("/")).ends_with("ok"));
    let file = folder.path().join("orphan");
    let pid = || std::fs::read_to_string(&file).unwrap_or_default();
    eventually("the orphan runs", || !pid().is_empty());
    let its_parent = || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid())).ok()?;
        stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse::<u32>().ok()
    };
    eventually("it is the server's child", || its_parent() == Some(server.pid()));
    std::fs::write(folder.path().join("go"), "").unwrap();
    eventually("it is gone, not a zombie", || its_parent().is_none());
    assert!(exchange(server.connect(), &closing_get("/")).ends_with("ok"));
    assert_eq!(server.stop("TERM"), Some(0));
}

#[test]
fn the_error_log_is_a_file_that_workers_share() {
    let folder = application("import sys\nprint('from the worker', file=sys.stderr)\nx = 1 / 0\n");
    let mut command = ringhorn();
    command.args(["app:application", "--bind", "127.0.0.1:0", "--error-logfile", "e.log"]);
    let output = command.current_dir(folder.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    let log = std::fs::read_to_string(folder.path().join("e.log")).unwrap();
    for text in ["interpreter: ", "from the worker", "ZeroDivisionError", "error: cannot load"] {
        assert!(log.contains(text), "no `{text}` in:\n{log}");
    }
}
