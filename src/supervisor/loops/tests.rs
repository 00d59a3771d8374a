//! Loops that end: whatever ends a thread, the supervisor is rung and finds it.

use std::path::Path;

use super::*;
use crate::config::{Asked, Config, Environment, Options};
use crate::supervisor::generations::Generations;
use crate::supervisor::handed_over::HandedOver;
use crate::supervisor::memory::PoolMemory;
use crate::supervisor::privileges::Privileges;

/// Two real loops, and the bell they ring.
fn two_loops(cores: &[core_affinity::CoreId]) -> (Loops, EventFd) {
    let none = Environment::new();
    let line = ["ringhorn", "a:b", "--bind", "127.0.0.1:0"];
    let config = match Options::read(line.map(Into::into), &none).unwrap() {
        Asked::Serve(options) => Config::resolve(&options, &none, Path::new("/")).unwrap(),
        Asked::Print(text) => panic!("{text}"),
    };
    let listeners =
        Listeners::bind(&config, 2, &Privileges::none(), &mut HandedOver::default()).unwrap();
    let settings = Arc::new(config.loop_settings(2, listeners.facts()));
    let bells = [EventFd::new().unwrap(), EventFd::new().unwrap()];
    let (_, ends) = PoolMemory::create(1, &settings, &bells, Generations::first()).unwrap();
    let starts = bells.into_iter().zip(ends).map(|(bell, end)| (bell, vec![end])).collect();
    let reports_bell = EventFd::new().unwrap();
    let rings = prepare_rings(&settings).unwrap();
    let loops = Loops::start(rings, &settings, &listeners, starts, &reports_bell, cores).unwrap();
    (loops, reports_bell)
}

/// Waits for the bell, and takes what was reported until a loop is found to have ended.
fn ended(loops: &Loops, bell: &EventFd) -> (u16, Vec<String>) {
    let patience = Instant::now() + Duration::from_secs(10);
    let mut said = Vec::new();
    loop {
        assert!(Instant::now() < patience, "nobody rang");
        if bell.take().unwrap() == 0 {
            std::thread::sleep(Duration::from_millis(1));
            continue;
        }
        let fetched = loops.reports(|report| said.push(format!("{report:?}")));
        if let Some(index) = fetched.ended {
            return (index, said);
        }
    }
}

#[test]
fn a_thread_that_returns_is_found_at_once() {
    let (loops, bell) = two_loops(&[]);
    assert_eq!(loops.reports(|_| ()).ended, None);
    let second = &loops.loops[1];
    second.commands.send(Command::Quit).unwrap();
    second.bell.ring().unwrap();
    assert_eq!(ended(&loops, &bell), (1, vec![]));
    loops.quit();
}

#[test]
fn a_loop_that_fails_says_why_and_is_found() {
    let nowhere = core_affinity::CoreId { id: 1_023 };
    let (loops, bell) = two_loops(&[nowhere]);
    let (_, said) = ended(&loops, &bell);
    assert!(said[0].contains("cannot pin the event loop to core 1023"), "{said:?}");
    loops.quit();
}
