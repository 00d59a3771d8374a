//! Holds the repository to its conventions: layers, fences, lengths, openings, and what stays out.
//!
//! Each rule is one test over every file, with findings of the form `path:line: what; what to do`,
//! and is itself tested on small samples at the end. The table of layers is `LAYERS` in
//! `tidy/rules.rs`; functions that were too long when the ratchet was set are in `LONG_FUNCTIONS`
//! below, which only ever shrinks.

#![allow(clippy::expect_used, reason = "a test that cannot read the repository has nothing to say")]

use std::path::{Path, PathBuf};

#[path = "tidy/rules.rs"]
mod rules;
#[path = "tidy/source.rs"]
mod source;

use rules::{Function, LAYERS};
use source::{Source, collect};

/// Functions above the limit with the lines they have today: (file, function, lines).
///
/// A row may shrink or go; it may neither grow nor be added.
const LONG_FUNCTIONS: &[(&str, &str, usize)] = &[];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Fails with all findings of a rule over all files with one of the endings.
fn check(endings: &[&str], rule: impl Fn(&Source) -> Vec<String>) {
    let sources = collect(&root(), endings);
    assert!(!sources.is_empty(), "no file ends in {endings:?}");
    let found: Vec<String> = sources.iter().flat_map(rule).collect();
    assert!(found.is_empty(), "{} findings:\n{}\n", found.len(), found.join("\n"));
}

#[test]
fn folders_import_only_lower_layers() {
    check(&[".rs"], rules::layering);
}

#[test]
fn crates_stay_inside_their_fence() {
    check(&[".rs"], rules::fences);
}

#[test]
fn files_say_what_they_are_for() {
    check(&[".rs", ".py"], rules::opening);
}

#[test]
fn files_have_a_bound() {
    for source in collect(&root(), &[".rs", ".py"]) {
        for warning in rules::file_length(&source, rules::FILE_LINES_WARN) {
            println!("warning: {warning}");
        }
    }
    check(&[".rs", ".py"], |source| rules::file_length(source, rules::FILE_LINES_MAX));
}

#[test]
fn functions_do_not_grow() {
    let sources = collect(&root(), &[".rs"]);
    let found = ratchet(&sources, LONG_FUNCTIONS);
    assert!(found.is_empty(), "{} findings:\n{}\n", found.len(), found.join("\n"));
}

#[test]
fn tests_run_and_debugging_left() {
    check(&[".rs"], rules::forbidden);
}

#[test]
fn what_is_to_do_has_an_issue() {
    check(&[".rs", ".py"], rules::to_do);
}

#[test]
fn lines_fit() {
    check(&[".rs", ".py"], rules::columns);
}

#[test]
fn unwraps_are_proven() {
    check(&[".rs"], rules::unwraps);
}

#[test]
fn papers_name_files_that_exist() {
    let root = root();
    let found: Vec<String> =
        collect(&root, &[".md"]).iter().flat_map(|paper| dead_names(&root, paper)).collect();
    assert!(found.is_empty(), "{} findings:\n{}\n", found.len(), found.join("\n"));
}

#[test]
fn every_page_of_the_documentation_is_listed() {
    let papers = collect(&root().join("docs"), &[".md"]);
    let index = papers.iter().find(|paper| paper.path == "README.md").expect("docs has an index");
    for paper in papers.iter().filter(|paper| paper.path != "README.md") {
        let is_listed = index.text.contains(&format!("]({})", paper.path));
        assert!(is_listed, "docs/{} is not listed in docs/README.md", paper.path);
    }
}

#[test]
fn layers_point_one_way() {
    for (rank, (room, granted)) in LAYERS.iter().enumerate() {
        for import in *granted {
            let below = LAYERS[..rank].iter().any(|(name, _)| name == import);
            assert!(
                below,
                "LAYERS grants `{room}` the import of `{import}`, which is not above it"
            );
        }
    }
}

/// Functions over the limit that the list does not excuse, and rows of the list that are out of
/// date.
fn ratchet(sources: &[Source], excused: &[(&str, &str, usize)]) -> Vec<String> {
    let mut found = Vec::new();
    let mut seen = vec![false; excused.len()];
    for source in sources.iter().filter(|source| !source.is_test()) {
        for function in rules::functions(source) {
            if function.lines <= rules::FUNCTION_LINES_MAX {
                continue;
            }
            let row = excused
                .iter()
                .position(|(path, name, _)| *path == source.path && *name == function.name);
            let lines_max = row.map_or(rules::FUNCTION_LINES_MAX, |row| excused[row].2);
            if let Some(row) = row {
                seen[row] = true;
            }
            let Function { name, line, lines } = &function;
            if *lines > lines_max {
                found.push(format!(
                    "{}:{line}: `{name}` has {lines} lines, at most {lines_max}; \
                                    split it",
                    source.path
                ));
            } else if *lines < lines_max {
                found.push(format!(
                    "{}:{line}: `{name}` shrank to {lines} lines; write that into \
                                    LONG_FUNCTIONS",
                    source.path
                ));
            }
        }
    }
    for ((path, name, _), _) in excused.iter().zip(seen).filter(|(_, seen)| !seen) {
        found.push(format!("{path}:1: `{name}` is short or gone; remove it from LONG_FUNCTIONS"));
    }
    found
}

/// What a paper names and is not there: files in links or, as `src/…`, in backticks, and functions
/// or types in backticks behind a file, as in `src/lib.rs` (`name`, `name`).
fn dead_names(root: &Path, paper: &Source) -> Vec<String> {
    let mut found = Vec::new();
    let mut report = |offset: usize, name: &str| {
        let line = paper.line_of(offset);
        found.push(format!("{}:{line}: names `{name}`, which is not there", paper.path));
    };
    let folder = root.join(&paper.path).parent().expect("a file has a folder").to_path_buf();
    for (at, _) in paper.text.match_indices("](") {
        let link = paper.text[at + 2..].split(')').next().unwrap_or_default();
        let file = link.split('#').next().unwrap_or_default();
        if !link.contains(':') && !folder.join(file).exists() {
            report(at, link);
        }
    }
    let mut offset = 0;
    let mut file_before = String::new();
    for (index, piece) in paper.text.split('`').enumerate() {
        if index % 2 == 0 {
            if !matches!(piece.trim(), "(" | ",") {
                file_before.clear();
            }
        } else if is_path(piece) {
            match std::fs::read_to_string(root.join(piece)) {
                Ok(text) => file_before = text,
                Err(_) if root.join(piece).is_dir() => {}
                Err(_) => report(offset, piece),
            }
        } else if !file_before.is_empty() {
            let kinds = ["fn", "def", "struct", "enum", "trait", "const"];
            if !kinds.iter().any(|kind| file_before.contains(&format!("{kind} {piece}"))) {
                report(offset, piece);
            }
        }
        offset += piece.len() + 1;
    }
    found
}

/// Whether what stands in backticks is the name of one of our files or folders.
fn is_path(name: &str) -> bool {
    const OURS: [&str; 8] =
        ["src", "runtimes", "tests", "tools", "benches", "examples", "tuning", "docs"];
    let first = name.split('/').next().unwrap_or_default();
    let is_plain = name.contains('/') && !name.contains(['*', ' ', '<', '$', ':', '{', '…', '\n']);
    is_plain && OURS.contains(&first)
}

/// The lines of the findings that a rule has for a sample.
fn lines_of(path: &str, text: &str, rule: fn(&Source) -> Vec<String>) -> Vec<usize> {
    rule(&Source::new(path, text))
        .iter()
        .map(|finding| {
            let line = finding.strip_prefix(path).and_then(|rest| rest.split(':').nth(1));
            line.and_then(|line| line.parse().ok()).expect("a finding starts with path:line:")
        })
        .collect()
}

#[test]
fn rule_layering_sees_every_way_to_import() {
    let found = |path, text| lines_of(path, text, rules::layering);
    assert_eq!(found("src/connection/mod.rs", "use crate::http::Method;"), []);
    assert_eq!(found("src/connection/mod.rs", "use crate::event_loop::Turn;"), [1]);
    assert_eq!(found("src/connection/mod.rs", "\nfn f() { crate::driver::Op::new() }"), [2]);
    assert_eq!(found("src/connection/mod.rs", "use crate::{http::{driver, sys}, base};"), []);
    assert_eq!(found("src/connection/mod.rs", "use crate::{http::Method, driver::Op};"), [1]);
    assert_eq!(found("src/connection/mod.rs", "use super::driver::Op;"), [1]);
    assert_eq!(found("src/protocol/mod.rs", "use ringhorn_exchange::LoopEnd;"), [1]);
    assert_eq!(found("src/connection/body.rs", "use super::driver::Op;"), []);
    assert_eq!(found("src/connection/body.rs", "use super::super::driver::Op;"), [1]);
    assert_eq!(found("src/connection/body.rs", "// crate::driver\nlet a = \"crate::driver\";"), []);
    assert_eq!(found("src/event_loop/reply.rs", "use ringhorn_exchange::LoopEnd;"), []);
    assert_eq!(found("src/main.rs", "fn main() { ringhorn::cli::run() }"), []);
    assert_eq!(found("src/main.rs", "fn main() { ringhorn::supervisor::run() }"), [1]);
    assert_eq!(found("src/attic/mod.rs", ""), [1]);
    assert_eq!(found("src/lib.rs", "pub use crate::supervisor::Supervisor;"), []);
}

#[test]
fn rule_fences_sees_crates_outside() {
    let found = |path, text| lines_of(path, text, rules::fences);
    assert_eq!(found("src/driver/uring.rs", "use io_uring::IoUring;"), []);
    assert_eq!(found("src/driver/uring/setup.rs", "use io_uring::IoUring;"), []);
    assert_eq!(found("src/driver/epoll.rs", "use io_uring::IoUring;"), [1]);
    assert_eq!(found("src/supervisor/mod.rs", "tokio_uring::start(async {});"), []);
    assert_eq!(found("src/event_loop/mod.rs", "tokio_uring::start(async {});"), [1]);
    assert_eq!(found("src/http/mod.rs", "// libc::close\nuse libc;"), [2]);
    assert_eq!(found("src/http/mod.rs", "let libc = 1;"), []);
    assert_eq!(found("tests/it/main.rs", "libc::kill(pid, 9);"), []);
    assert_eq!(found("runtimes/exchange/src/a.rs", "use pyo3::ffi;"), [1]);
}

#[test]
fn rule_opening_wants_the_first_line() {
    let found = |path, text| lines_of(path, text, rules::opening);
    assert_eq!(found("a.rs", "//! Purpose.\nuse a;"), []);
    assert_eq!(found("a.rs", "// Purpose.\n//! Late."), [1]);
    assert_eq!(found("a.rs", ""), [1]);
    assert_eq!(found("a.py", "#!/usr/bin/env python3\n# Note\n\n\"\"\"Purpose.\"\"\"\n"), []);
    assert_eq!(found("a.py", "import os\n\"\"\"Late.\"\"\"\n"), [1]);
    assert_eq!(found("a.py", ""), [1]);
}

#[test]
fn rule_file_length_spares_tests() {
    let text = "\n".repeat(rules::FILE_LINES_MAX + 1);
    let found = |path, text| lines_of(path, text, |s| rules::file_length(s, rules::FILE_LINES_MAX));
    assert_eq!(found("src/a.rs", &text), [1]);
    assert_eq!(found("src/a.rs", &text[1..]), []);
    assert_eq!(found("src/a/tests.rs", &text), []);
    assert_eq!(found("tests/it/main.rs", &text), []);
    assert_eq!(found("runtimes/python/test_loader.py", &text), []);
}

#[test]
fn rule_functions_measures_bodies() {
    let text = r#"fn a() {}
trait T {
    fn b(&self);
    fn c(&self) -> [u8; 2]
    {
    }
}
struct S { call: fn(u8) -> u8 }
fn d<F>(f: F) where F: Fn() {
  // }
  "}";
}
"#;
    let found: Vec<_> = rules::functions(&Source::new("a.rs", text))
        .into_iter()
        .map(|function| (function.name, function.line, function.lines))
        .collect();
    let row = |name: &str, line, lines| (name.to_owned(), line, lines);
    assert_eq!(found, [row("a", 1, 1), row("c", 4, 3), row("d", 9, 4)]);
}

#[test]
fn rule_ratchet_only_shrinks() {
    let long = |lines: usize| format!("fn f() {{\n{}}}\n", "    a();\n".repeat(lines - 2));
    let found = |lines, excused: &[(&str, &str, usize)]| {
        ratchet(&[Source::new("src/a.rs", &long(lines))], excused).len()
    };
    assert_eq!(found(70, &[]), 0);
    assert_eq!(found(71, &[]), 1);
    assert_eq!(found(80, &[("src/a.rs", "f", 80)]), 0);
    assert_eq!(found(81, &[("src/a.rs", "f", 80)]), 1, "grew");
    assert_eq!(found(79, &[("src/a.rs", "f", 80)]), 1, "shrank");
    assert_eq!(found(60, &[("src/a.rs", "f", 80)]), 1, "done");
}

#[test]
fn rule_forbidden_sees_attributes_and_macros() {
    let found = |text| lines_of("a.rs", text, rules::forbidden);
    assert_eq!(found("#[test]\n#[ignore]\nfn a() {}"), [2]);
    assert_eq!(found("#[ignore = \"slow\"]\nfn a() {}"), [1]);
    assert_eq!(found("#[cfg_attr(miri, ignore)]"), []);
    assert_eq!(found("#[should_panic(expected = \"x\")]"), [1]);
    assert_eq!(found("let a = dbg!(b);"), [1]);
    assert_eq!(
        found("// dbg! and #[ignore]\nfn ignore(a: &[bool]) -> bool { ignored[ignore] }"),
        []
    );
}

#[test]
fn rule_to_do_wants_a_number() {
    let found = |path, text: &str| lines_of(path, text, rules::to_do);
    let mark = ["TO", "DO"].concat();
    assert_eq!(found("a.rs", &format!("// {mark}: later")), [1]);
    assert_eq!(found("a.rs", &format!("// {mark}(#12): later")), []);
    assert_eq!(found("a.rs", &format!("let a = \"{mark}\";")), []);
    assert_eq!(found("a.py", &format!("# {mark} later")), [1]);
}

#[test]
fn rule_columns_counts_characters() {
    let found = |text: &str| lines_of("a.rs", text, rules::columns);
    assert_eq!(found(&"é ".repeat(50)), []);
    assert_eq!(found(&format!("\n{}é", "é ".repeat(50))), [2]);
    assert_eq!(found(&format!("// https://{}", "a".repeat(100))), []);
    assert_eq!(found(&format!("f(\"{}\");", "a ".repeat(60))), []);
    assert_eq!(found(&format!("f(\"a\", {}b);", "a, ".repeat(60))), [1]);
}

#[test]
fn rule_unwraps_wants_a_proof() {
    let found = |text| lines_of("src/a.rs", text, rules::unwraps);
    assert_eq!(found("fn a() {\n    b.unwrap();\n}"), [2]);
    assert_eq!(found("fn a() {\n    b.expect(\"c\");\n}"), [2]);
    assert_eq!(found("fn a() {\n    // b was set above.\n    b.unwrap();\n}"), []);
    assert_eq!(found("#[cfg(test)]\nmod tests {\n    fn a() { b.unwrap() }\n}\nfn c() { d }"), []);
    assert_eq!(found("#[cfg(test)]\nmod tests;\nfn a() {\n\n\n\n b.unwrap() }"), [7]);
}

#[test]
fn rule_dead_names_reads_links_and_backticks() {
    let found = |text| dead_names(&root(), &Source::new("README.md", text)).len();
    assert_eq!(found("[a](Cargo.toml) and `src/lib.rs`"), 0);
    assert_eq!(found("[a](https://example.org/x) and [b](#here)"), 0);
    assert_eq!(found("[a](absent.md)"), 1);
    assert_eq!(found("`src/absent.rs` or `src/*.rs`"), 1);
    assert_eq!(found("`tests/tidy.rs` (`dead_names`, `root`) and `absent`"), 0);
    assert_eq!(found("`tests/tidy.rs`\n(`dead_names`, `absent_name`)"), 1);
    assert_eq!(found("```text\n[src/absent.rs]\n```\n`src/lib.rs`"), 0);
}
