//! Reader of the golden cases in this folder, for tests of the codecs and of the built program.
//!
//! `README.md` beside this file documents the format. A file that does not keep to it fails the
//! test that reads it, with file and line.
#![allow(clippy::expect_used, reason = "test code that is not inside a test function")]

/// One case: bytes a client sends, and what must come of them.
#[derive(Debug)]
pub struct Case {
    /// Unique in its folder; used in messages.
    pub name: String,
    /// What the client sends, all of it.
    pub bytes: Vec<u8>,
    /// The answers in order: a status, `close`, `partial` or `pong`.
    pub expect: Vec<String>,
    /// For cases that are served: the body of the first request as the application reads it.
    pub body: Option<Vec<u8>>,
}

/// All cases of `tests/data/<folder>/*.txt`, by file name and then in file order.
#[track_caller]
pub fn read(folder: &str) -> Vec<Case> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(folder);
    let mut paths: Vec<_> = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.expect("a readable folder entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .collect();
    paths.sort();
    let mut cases: Vec<Case> = Vec::new();
    for path in paths {
        let text = std::fs::read_to_string(&path).expect("a golden file is UTF-8");
        for (number, line) in text.lines().enumerate() {
            let place = format!("{}:{}", path.display(), number + 1);
            read_line(line, &mut cases, &place);
        }
    }
    let mut names: Vec<&str> = cases.iter().map(|case| case.name.as_str()).collect();
    names.sort_unstable();
    for pair in names.windows(2) {
        assert_ne!(pair[0], pair[1], "two cases of this name in {}", folder.display());
    }
    for case in &cases {
        assert!(!case.expect.is_empty(), "{} expects nothing", case.name);
    }
    cases
}

fn read_line(line: &str, cases: &mut Vec<Case>, place: &str) {
    if line.is_empty() || line.starts_with(";") {
        return;
    }
    if let Some(name) = line.strip_prefix("# ") {
        let (bytes, expect, body) = (Vec::new(), Vec::new(), None);
        cases.push(Case { name: name.to_string(), bytes, expect, body });
        return;
    }
    let case = cases.last_mut().unwrap_or_else(|| panic!("{place}: no `# name` above this line"));
    let (key, text) = line.split_once(": ").unwrap_or_else(|| panic!("{place}: no `key: text`"));
    match key {
        "bytes" => case.bytes.extend(unescape(text, place)),
        "expect" => case.expect = text.split(' ').map(str::to_string).collect(),
        "body" => case.body = Some(unescape(text, place)),
        _ => panic!("{place}: unknown key `{key}`"),
    }
}

/// Undoes `\r \n \t \\ \xNN` and `\*COUNT{TEXT}`.
fn unescape(text: &str, place: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some((plain, escape)) = rest.split_once('\\') {
        bytes.extend_from_slice(plain.as_bytes());
        let kind = escape.chars().next().unwrap_or_else(|| panic!("{place}: `\\` at the end"));
        rest = &escape[kind.len_utf8()..];
        match kind {
            'r' => bytes.push(b'\r'),
            'n' => bytes.push(b'\n'),
            't' => bytes.push(b'\t'),
            '\\' => bytes.push(b'\\'),
            'x' => {
                let digits =
                    rest.get(..2).unwrap_or_else(|| panic!("{place}: `\\x` needs 2 digits"));
                let byte = u8::from_str_radix(digits, 16);
                bytes.push(byte.unwrap_or_else(|_| panic!("{place}: `\\x{digits}`")));
                rest = &rest[2..];
            }
            '*' => {
                let parts = rest.split_once('{').and_then(|(count, after)| {
                    let (repeated, after) = after.split_once('}')?;
                    Some((count.parse::<usize>().ok()?, repeated, after))
                });
                let (count, repeated, after) =
                    parts.unwrap_or_else(|| panic!("{place}: not `\\*COUNT{{TEXT}}`"));
                bytes.extend(unescape(repeated, place).repeat(count));
                rest = after;
            }
            other => panic!("{place}: unknown escape `\\{other}`"),
        }
    }
    bytes.extend_from_slice(rest.as_bytes());
    bytes
}
