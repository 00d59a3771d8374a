//! Messages come back as they went, cut ones are refused, descriptors travel and nothing leaks on
//! errors.

use std::io::{Read, Seek, Write};

use super::*;

fn setup() -> Setup {
    Setup {
        application: "shop.wsgi:application".into(),
        pythonpath: vec!["/srv/shop".into(), "/srv/libs ü".into()],
        chdir: Some("/srv".into()),
        threads: 8,
        first_seat: 16,
        generation: 3,
        worker: 41,
        multiprocess: true,
        check_only: false,
        cpu: Some(5),
        paired_loop: None,
        loops: 2,
        server_software: "ringhorn/0.1.0".into(),
        options: vec![("strict".into(), "yes".into())],
    }
}

fn tenure() -> Tenure {
    Tenure { event_loop: 3, slot: 70_000, epoch: (1 << 40) - 2 }
}

fn from_worker() -> Vec<FromWorker> {
    vec![
        FromWorker::Hello(Hello::of_this_build("cpython".into(), "3.12.4".into())),
        FromWorker::Ready(Ready { threads: 4, one_lock: true }),
        FromWorker::Failed(Failed { exit_code: -3, text: "Traceback…".into() }),
        FromWorker::WornOut(WornOut { requests: 1_043 }),
        FromWorker::Changed(Changed { path: "/srv/shop/views.py".into() }),
        FromWorker::Forked(Forked { worker: 7, pid: 4_194_304 }),
        FromWorker::ForkFailed(ForkFailed { worker: 7, text: "no memory".into() }),
        FromWorker::Ended(Ended { worker: 7, status: Some(139) }),
        FromWorker::Ended(Ended { worker: 8, status: None }),
        FromWorker::Stuck(Stuck { seat: 9, tenure: tenure() }),
    ]
}

fn check<M: Message + PartialEq + std::fmt::Debug>(message: &M) {
    let mut bytes = Vec::new();
    message.encode(&mut bytes);
    assert_eq!(&M::decode(&bytes).unwrap(), message);
    for cut in 0..bytes.len() {
        assert!(M::decode(&bytes[..cut]).is_err(), "cut at {cut} of {message:?}");
    }
    bytes.push(0);
    assert!(M::decode(&bytes).is_err(), "a trailing byte passes");
}

#[test]
fn messages_come_back_as_they_went_and_cut_ones_are_refused() {
    from_worker().iter().for_each(check);
    check(&ToWorker::Setup(Box::new(setup())));
    check(&ToWorker::Stop(Stop { graceful: true }));
    for why in [Why::Timeout, Why::Slow, Why::ClientLeft] {
        check(&ToWorker::Interrupt(Box::new(Interrupt {
            why,
            seat: 17,
            tenure: tenure(),
            grace_ms: 2000,
            request: "GET /ü HTTP/1.1".into(),
            request_id: "a1".into(),
        })));
    }
    check(&ToWorker::Fork(Fork { worker: 7 }));
}

#[test]
fn an_option_makes_a_fork_server() {
    let mut setup = setup();
    assert!(!setup.is_fork_server());
    setup.options.push((FORK_SERVER_OPTION.into(), String::new()));
    assert!(setup.is_fork_server());
}

#[test]
fn a_count_beyond_the_message_is_refused_without_allocating() {
    let mut bytes = Vec::new();
    ToWorker::Setup(Box::new(setup())).encode(&mut bytes);
    let at = 1 + 4 + setup().application.len();
    bytes[at..at + 8].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(ToWorker::decode(&bytes).is_err());
}

#[test]
fn a_long_traceback_keeps_its_end() {
    let text = format!("{}ü the end", "ü".repeat(TEXT_BYTES_MAX));
    let mut bytes = Vec::new();
    FromWorker::Failed(Failed { exit_code: 1, text }).encode(&mut bytes);
    let FromWorker::Failed(failed) = FromWorker::decode(&bytes).unwrap() else { panic!() };
    assert!(failed.text.ends_with("ü the end"));
    assert!(failed.text.len() <= TEXT_BYTES_MAX && failed.text.len() > TEXT_BYTES_MAX - 4);
}

#[test]
fn descriptors_travel_with_their_message() {
    let (server, worker) = ControlSocket::pair().unwrap();
    let mut file = tempfile();
    file.write_all(b"seen through another descriptor").unwrap();
    let many: Vec<_> = (0..DESCRIPTORS_MAX).map(|_| file.as_fd()).collect();
    server.send(&ToWorker::Setup(Box::new(setup())), &many).unwrap();
    let Received::Message(message, descriptors) = worker.receive::<ToWorker>().unwrap() else {
        panic!("no message");
    };
    assert_eq!(message, ToWorker::Setup(Box::new(setup())));
    assert_eq!(descriptors.len(), DESCRIPTORS_MAX);
    let mut copy = std::fs::File::from(descriptors.into_iter().next_back().unwrap());
    // SAFETY: fcntl only reads the flags of a descriptor that `copy` owns.
    let flags = unsafe { libc::fcntl(copy.as_raw_fd(), libc::F_GETFD) };
    assert_eq!(flags & libc::FD_CLOEXEC, libc::FD_CLOEXEC);
    let mut text = String::new();
    copy.rewind().unwrap();
    copy.read_to_string(&mut text).unwrap();
    assert_eq!(text, "seen through another descriptor");
}

#[test]
fn an_end_of_file_and_an_empty_socket_are_told_apart() {
    let (server, worker) = ControlSocket::pair().unwrap();
    server.set_nonblocking(true).unwrap();
    assert!(matches!(server.receive::<FromWorker>().unwrap(), Received::Nothing));
    worker.send(&from_worker()[1], &[]).unwrap();
    drop(worker);
    let received = server.receive::<FromWorker>().unwrap();
    assert!(matches!(received, Received::Message(_, descriptors) if descriptors.is_empty()));
    assert!(matches!(server.receive::<FromWorker>().unwrap(), Received::Closed));
    let error = server.send(&ToWorker::Stop(Stop { graceful: false }), &[]).unwrap_err();
    assert!(matches!(error, ControlError::Io(error) if error.kind() == io::ErrorKind::BrokenPipe));
}

#[test]
fn a_message_of_the_other_direction_is_refused() {
    let (server, worker) = ControlSocket::pair().unwrap();
    server.send(&ToWorker::Stop(Stop { graceful: true }), &[]).unwrap();
    assert!(matches!(worker.receive::<FromWorker>(), Err(ControlError::Malformed("kind"))));
}

/// An unnamed file.
fn tempfile() -> std::fs::File {
    // SAFETY: the name is a C string; the result is checked.
    let descriptor = unsafe { libc::memfd_create(c"control-test".as_ptr(), libc::MFD_CLOEXEC) };
    assert!(descriptor >= 0);
    // SAFETY: the call succeeded and nobody else owns it.
    unsafe { std::fs::File::from_raw_fd(descriptor) }
}
