//! The rules of tidy over one file each: a finding is one line, `path:line: what; what to do`.
//!
//! A rule sees a [`Source`] and nothing else, so that its samples below are whole files.

use crate::source::{LITERAL, Source, closing, is_word, words};

/// Which folder of `src` may import which. `exchange` is the crate in `runtimes/exchange`.
///
/// The order is the order of the layers: an edge goes from a row to rows above it (checked by
/// `layers_point_one_way`). A new edge is a change of design: say in its review what it is for.
pub const LAYERS: &[(&str, &[&str])] = &[
    ("base", &[]),
    ("exchange", &[]),
    ("sys", &["base"]),
    ("http", &["base"]),
    ("metrics", &["base"]),
    ("log", &["base"]),
    // A log format is checked when it is configured.
    ("config", &["log", "base"]),
    ("driver", &["sys", "base"]),
    ("protocol", &["http", "base"]),
    // What a reply stated, and the access record that is captured at head time: plain data of both.
    ("connection", &["protocol", "http", "config", "exchange", "log", "base"]),
    (
        "event_loop",
        &[
            "connection",
            "driver",
            "exchange",
            "config",
            "metrics",
            "log",
            "protocol",
            "http",
            "sys",
            "base",
        ],
    ),
    ("control", &["config", "metrics", "log", "sys", "base"]),
    (
        "supervisor",
        &["control", "event_loop", "exchange", "driver", "config", "metrics", "log", "sys", "base"],
    ),
    ("cli", &["config", "control", "supervisor"]),
    ("main", &["cli"]),
];

/// Crates that only some folders may name, with the reason a finding gives.
pub const FENCES: &[(&str, &[&str], &str)] = &[
    ("io_uring", &["src/driver/uring"], "the io_uring driver is the only one that knows the ring"),
    ("pyo3", &["runtimes/cpython/"], "only the CPython runtime knows that interpreter"),
    (
        "libc",
        &["src/sys/", "src/driver/", "runtimes/exchange/", "runtimes/cpython/"],
        "system calls live in sys, driver, the exchange and a runtime's FFI",
    ),
    (
        "tokio_uring",
        &["src/supervisor/", "src/control/", "src/log/"],
        "the control plane runs on it; an event loop has its own ring",
    ),
    (
        "tokio",
        &["src/supervisor/", "src/control/", "src/log/"],
        "the control plane runs on it; an event loop never blocks on a runtime",
    ),
];

/// Lines at which a file is reported by `make lint` as growing too long; no failure yet.
pub const FILE_LINES_WARN: usize = 600;
/// Lines that no file exceeds, tests excepted.
pub const FILE_LINES_MAX: usize = 1000;
/// Lines that no function exceeds, but for the ratchet's list.
pub const FUNCTION_LINES_MAX: usize = 70;
/// Characters in a line, comments included (rustfmt leaves those alone).
pub const COLUMNS_MAX: usize = 100;

/// Folders of `src` import only what [`LAYERS`] grants them.
pub fn layering(source: &Source) -> Vec<String> {
    let Some(room) = room_of(&source.path) else { return Vec::new() };
    let Some((_, granted)) = LAYERS.iter().find(|(name, _)| *name == room) else {
        return vec![format!("{}:1: `{room}` has no row in LAYERS; give it one", source.path)];
    };
    let mut found = Vec::new();
    for (offset, import) in imports(source) {
        let is_room = LAYERS.iter().any(|(name, _)| *name == import);
        if is_room && import != room && !granted.contains(&import.as_str()) {
            found.push(format!(
                "{}:{}: `{room}` may not import `{import}`; move the code, or argue for the edge \
                 in LAYERS",
                source.path,
                source.line_of(offset)
            ));
        }
    }
    found
}

/// The layer a file belongs to; `None` outside `src` and for the crate's root.
fn room_of(path: &str) -> Option<&str> {
    let inside = path.strip_prefix("src/")?;
    let room = inside.split('/').next()?;
    let room = room.strip_suffix(".rs").unwrap_or(room);
    (room != "lib").then_some(room)
}

/// Every layer that a file names, with the offset: by `crate::`, `ringhorn::`, enough `super::`, a
/// group in braces, or as the exchange's crate.
fn imports(source: &Source) -> Vec<(usize, String)> {
    let code = source.code.as_str();
    let mut found: Vec<_> = words(code, "ringhorn_exchange")
        .into_iter()
        .map(|at| (at, "exchange".to_owned()))
        .collect();
    for root in ["crate", "ringhorn"] {
        for at in words(code, root) {
            found.extend(heads(code, at + root.len()).into_iter().map(|head| (at, head)));
        }
    }
    // `super` leaves the folder when it climbs as far as the file is deep.
    let climbs =
        source.path.split('/').count() - if source.path.ends_with("/mod.rs") { 2 } else { 1 };
    for at in words(code, "super") {
        let chain = "super::".repeat(climbs);
        if climbs > 0 && code[at..].starts_with(&chain) {
            let after = at + chain.len() - "::".len();
            found.extend(heads(code, after).into_iter().map(|head| (at, head)));
        }
    }
    found
}

/// First segments of the path, or of the group of paths, that follows `::` at `at`.
fn heads(code: &str, at: usize) -> Vec<String> {
    let Some(rest) = code[at..].strip_prefix("::") else { return Vec::new() };
    if !rest.starts_with('{') {
        return vec![identifier(rest)];
    }
    let group = &rest[1..closing(rest, 0)];
    let mut depth = 0;
    let mut found = Vec::new();
    let mut expects_head = true;
    for (index, byte) in group.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            b',' if depth == 0 => expects_head = true,
            _ if expects_head && is_word(byte) => {
                found.push(identifier(&group[index..]));
                expects_head = false;
            }
            _ => {}
        }
    }
    found
}

/// The identifier at the start of `code`; empty when none is there.
fn identifier(code: &str) -> String {
    code.bytes().take_while(|&byte| is_word(byte)).map(char::from).collect()
}

/// Crates with a fence are named only inside it. Tests and benchmarks may name any.
pub fn fences(source: &Source) -> Vec<String> {
    if !source.is_rust() || source.is_test() {
        return Vec::new();
    }
    let mut found = Vec::new();
    for (name, inside, why) in FENCES {
        if inside.iter().any(|folder| source.path.starts_with(folder)) {
            continue;
        }
        for at in words(&source.code, name) {
            let line = source.line_of(at);
            let names_crate = source.code[at + name.len()..].starts_with("::")
                || source.code[..at].ends_with("use ");
            if names_crate {
                found.push(format!(
                    "{}:{line}: `{name}::` does not belong here; {why}",
                    source.path
                ));
            }
        }
    }
    found
}

/// A Rust file opens with `//!`, a Python file with a docstring.
pub fn opening(source: &Source) -> Vec<String> {
    let opens_well = if source.is_rust() {
        source.text.starts_with("//! ")
    } else {
        let code = source
            .text
            .lines()
            .find(|line| !line.trim().is_empty() && !line.starts_with('#'))
            .unwrap_or_default();
        code.trim_start_matches(['r', 'R']).starts_with("\"\"\"")
    };
    if opens_well {
        return Vec::new();
    }
    let how = if source.is_rust() { "`//! `" } else { "a docstring" };
    vec![format!(
        "{}:1: opens without {how}; say what it is for, where it stands, its invariants",
        source.path
    )]
}

/// No file is longer than [`FILE_LINES_MAX`], tests excepted.
pub fn file_length(source: &Source, lines_max: usize) -> Vec<String> {
    let lines = source.text.lines().count();
    if source.is_test() || lines <= lines_max {
        return Vec::new();
    }
    vec![format!("{}:1: {lines} lines, at most {lines_max}; it is two rooms", source.path)]
}

/// One function: its name, its line, and its lines from `fn` to the closing brace.
#[derive(Debug, PartialEq)]
pub struct Function {
    /// The name after `fn`.
    pub name: String,
    /// 1-based line of `fn`.
    pub line: usize,
    /// How many lines it spans.
    pub lines: usize,
}

/// Every function with a body in a Rust file.
pub fn functions(source: &Source) -> Vec<Function> {
    let code = source.code.as_str();
    let mut found = Vec::new();
    for at in words(code, "fn") {
        let name = identifier(code[at + 2..].trim_start());
        let Some(open) = body_of(code, at) else { continue };
        if name.is_empty() {
            continue;
        }
        let line = source.line_of(at);
        let last = source.line_of(closing(code, open) - 1);
        found.push(Function { name, line, lines: last - line + 1 });
    }
    found
}

/// Offset of the brace that opens the body of the `fn` at `at`; `None` for a declaration or type.
fn body_of(code: &str, at: usize) -> Option<usize> {
    let mut depth = 0i32;
    for (index, byte) in code.bytes().enumerate().skip(at) {
        match byte {
            b'(' | b'[' => depth += 1,
            b')' | b']' if depth == 0 => return None,
            b')' | b']' => depth -= 1,
            b'{' if depth == 0 => return Some(index),
            b';' | b',' | b'=' if depth == 0 && !code[index..].starts_with("=>") => return None,
            _ => {}
        }
    }
    None
}

/// Words that stay out of every Rust file, with what to do instead. Checked in tests too.
pub fn forbidden(source: &Source) -> Vec<String> {
    const WORDS: &[(&str, &str)] = &[
        ("ignore]", "a test runs or is removed"),
        ("ignore =", "a test runs or is removed"),
        ("should_panic", "return or catch the fault and compare it"),
        ("dbg!", "a debugger, or a log event that stays"),
    ];
    let mut found = Vec::new();
    for (word, instead) in WORDS {
        for (at, _) in source.code.match_indices(word) {
            if *word == "dbg!" || source.code[..at].ends_with("#[") {
                let line = source.line_of(at);
                found.push(format!("{}:{line}: `{word}` is not used here; {instead}", source.path));
            }
        }
    }
    found
}

/// A to-do in a comment names its issue, as `(#12)`.
pub fn to_do(source: &Source) -> Vec<String> {
    let marks = ["TO", "FIX", "XX", "HA"].iter().zip(["DO", "ME", "X", "CK"]);
    let mut found = Vec::new();
    for (one, two) in marks {
        let mark = [*one, two].concat();
        for at in words(&source.comments, &mark) {
            let after = &source.comments[at + mark.len()..];
            let number = after.strip_prefix("(#").unwrap_or_default();
            if !number.starts_with(|first: char| first.is_ascii_digit()) {
                let line = source.line_of(at);
                found.push(format!(
                    "{}:{line}: `{mark}` without an issue; do it, or write {mark}(#number)",
                    source.path
                ));
            }
        }
    }
    found
}

/// No line is longer than [`COLUMNS_MAX`] characters, but for what cannot be broken: a literal that
/// stands at the limit, or a single long word such as an address.
pub fn columns(source: &Source) -> Vec<String> {
    let mut found = Vec::new();
    let mut offset = 0;
    for (index, line) in source.text.split('\n').enumerate() {
        let at_limit = line.char_indices().nth(COLUMNS_MAX).map(|(at, _)| offset + at);
        offset += line.len() + 1;
        let Some(at_limit) = at_limit else { continue };
        let in_literal = source.is_rust() && source.code.as_bytes()[at_limit - 1] == LITERAL;
        let splittable = line.split_whitespace().all(|word| word.len() < COLUMNS_MAX - 10);
        if splittable && !in_literal {
            let width = line.chars().count();
            found.push(format!(
                "{}:{}: {width} columns, at most {COLUMNS_MAX}; break the line",
                source.path,
                index + 1
            ));
        }
    }
    found
}

/// Outside tests, an `unwrap` or `expect` has its proof in a comment, or in an attribute's
/// `reason`, at most three lines above.
pub fn unwraps(source: &Source) -> Vec<String> {
    if !source.is_rust() || source.is_test() {
        return Vec::new();
    }
    let tests = test_spans(&source.code);
    let lines: Vec<&str> = source.text.lines().collect();
    let mut found = Vec::new();
    for word in [".unwrap()", ".expect("] {
        for (at, _) in source.code.match_indices(word) {
            let line = source.line_of(at);
            let above = &lines[line.saturating_sub(4)..line];
            let has_reason =
                above.iter().any(|text| text.contains("// ") || text.contains("reason = "));
            if !has_reason && !tests.iter().any(|span| span.contains(&at)) {
                found.push(format!(
                    "{}:{line}: `{word}` without a proof; return an error, or prove it in the line \
                     above",
                    source.path
                ));
            }
        }
    }
    found
}

/// Spans of code under `#[cfg(test)]` or `#[test]`.
fn test_spans(code: &str) -> Vec<std::ops::Range<usize>> {
    ["#[cfg(test)]", "#[cfg(all(test", "#[test]"]
        .iter()
        .flat_map(|mark| code.match_indices(mark))
        .filter_map(|(at, _)| {
            let open = at + code[at..].find('{')?;
            let ends_before = code[at..open].contains(';');
            (!ends_before).then(|| at..closing(code, open))
        })
        .collect()
}
