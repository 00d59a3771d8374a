//! Reads the repository's files and splits Rust source into code and comments for the rules of
//! tidy.
//!
//! The splitter knows just enough of Rust's lexical grammar (the Reference, "Tokens" and
//! "Comments") to blank out literals and comments without moving a byte: rules search words in
//! `code` and `comments`, and byte offsets and line numbers are those of the file.

use std::fs;
use std::path::Path;

/// One file of the repository.
pub struct Source {
    /// Path from the repository's root, with `/`.
    pub path: String,
    /// The whole text.
    pub text: String,
    /// The text with comments as spaces and the insides of literals as [`LITERAL`]. For other
    /// languages: the text.
    pub code: String,
    /// The text with everything but comments as spaces. For other languages: the text.
    pub comments: String,
}

impl Source {
    /// Splits `text` by the language that the path's ending names.
    pub fn new(path: &str, text: &str) -> Source {
        let (code, comments) =
            if path.ends_with(".rs") { split(text) } else { (text.to_owned(), text.to_owned()) };
        Source { path: path.to_owned(), text: text.to_owned(), code, comments }
    }

    /// Whether the file is no part of what is shipped, by its name or folder: tests, models,
    /// benchmarks and the examples of a crate.
    pub fn is_test(&self) -> bool {
        let name = self.path.rsplit('/').next().unwrap_or_default();
        let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
        let apart = ["tests", "models", "benches", "examples"];
        self.path.split('/').any(|part| apart.contains(&part))
            || ["tests", "model", "models", "conftest"].contains(&stem)
            || stem.ends_with("_tests")
            || stem.starts_with("test_")
    }

    /// Whether the file is Rust.
    pub fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// The 1-based line of a byte offset.
    pub fn line_of(&self, offset: usize) -> usize {
        self.text.as_bytes()[..offset].iter().filter(|&&byte| byte == b'\n').count() + 1
    }
}

/// What stands in [`Source::code`] for each byte inside a literal, newlines excepted.
pub const LITERAL: u8 = 0;

/// Every file of the repository with one of the endings, sorted by path.
///
/// Folders whose name starts with a dot, build output and caches are passed over.
pub fn collect(root: &Path, endings: &[&str]) -> Vec<Source> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).expect("the repository is readable");
        for entry in entries {
            let path = entry.expect("the repository is readable").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let built = name.starts_with("target") || name == "build" || name == "dist";
            if name.starts_with('.') || name == "__pycache__" {
                continue;
            }
            if path.is_dir() {
                if !(built && (folder == root || folder.ends_with("fuzz"))) {
                    folders.push(path);
                }
            } else if endings.iter().any(|ending| name.ends_with(ending)) {
                let text = fs::read_to_string(&path)
                    .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                let relative = path.strip_prefix(root).expect("below the root").to_string_lossy();
                found.push(Source::new(&relative, &text));
            }
        }
    }
    found.sort_by(|one, other| one.path.cmp(&other.path));
    found
}

/// What the splitter has before it.
enum Piece {
    Code,
    Comment,
    Literal,
}

/// Splits Rust source into (code, comments), each as long as `text`.
fn split(text: &str) -> (String, String) {
    let bytes = text.as_bytes();
    let mut code = blank(bytes);
    let mut comments = code.clone();
    let mut at = 0;
    while at < bytes.len() {
        let (piece, length) = next_piece(&bytes[at..], at > 0 && is_word(bytes[at - 1]));
        let end = (at + length).min(bytes.len());
        match piece {
            Piece::Code => code[at..end].copy_from_slice(&bytes[at..end]),
            Piece::Comment => comments[at..end].copy_from_slice(&bytes[at..end]),
            Piece::Literal => {
                for byte in code[at..end].iter_mut().filter(|byte| **byte != b'\n') {
                    *byte = LITERAL;
                }
                // The quotes stay, so that a rule sees that an argument was there.
                code[at] = b'"';
                code[end - 1] = b'"';
            }
        }
        at = end;
    }
    let text_of = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (text_of(code), text_of(comments))
}

/// As many bytes: newlines where they were, spaces elsewhere.
fn blank(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().map(|&byte| if byte == b'\n' { b'\n' } else { b' ' }).collect()
}

/// The next piece and its length, at least 1. `in_word`: the byte before belongs to an identifier.
fn next_piece(rest: &[u8], in_word: bool) -> (Piece, usize) {
    if rest.starts_with(b"//") {
        let end = rest.iter().position(|&byte| byte == b'\n').unwrap_or(rest.len());
        return (Piece::Comment, end);
    }
    if rest.starts_with(b"/*") {
        return (Piece::Comment, block_comment(rest));
    }
    if rest[0] == b'"' {
        return (Piece::Literal, quoted(rest, b'"'));
    }
    if rest[0] == b'\'' {
        return match char_literal(rest) {
            Some(length) => (Piece::Literal, length),
            None => (Piece::Code, 1),
        };
    }
    if !in_word && let Some(length) = raw_string(rest) {
        return (Piece::Literal, length);
    }
    (Piece::Code, 1)
}

/// Length of a block comment, which may hold others.
fn block_comment(rest: &[u8]) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

/// Length of a literal with escapes, from its opening to its closing quote.
fn quoted(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// Length of a character literal; `None` for a lifetime or label.
fn char_literal(rest: &[u8]) -> Option<usize> {
    if rest.get(1) == Some(&b'\\') {
        return Some(quoted(rest, b'\''));
    }
    let first = rest.get(1)?;
    let width = match first {
        0x00..0x80 => 1,
        0xc0..0xe0 => 2,
        0xe0..0xf0 => 3,
        _ => 4,
    };
    (rest.get(1 + width) == Some(&b'\'')).then_some(width + 2)
}

/// Length of `r"…"`, `br#"…"#` and their like; `None` when none starts here.
fn raw_string(rest: &[u8]) -> Option<usize> {
    let prefix = [&b"r"[..], b"br", b"cr"].into_iter().find(|prefix| {
        rest.starts_with(prefix) && matches!(rest.get(prefix.len()), Some(b'"' | b'#'))
    })?;
    let hashes = rest[prefix.len()..].iter().take_while(|&&byte| byte == b'#').count();
    let open = prefix.len() + hashes;
    if rest.get(open) != Some(&b'"') {
        return None;
    }
    let mut close = vec![b'"'];
    close.resize(1 + hashes, b'#');
    let body = &rest[open + 1..];
    let end = body.windows(close.len()).position(|window| window == close)?;
    Some(open + 1 + end + close.len())
}

/// Whether a byte may stand in an identifier.
pub fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Offsets at which `word` stands in `code` as a whole word.
pub fn words(code: &str, word: &str) -> Vec<usize> {
    let bytes = code.as_bytes();
    code.match_indices(word)
        .map(|(at, _)| at)
        .filter(|&at| {
            let end = at + word.len();
            (at == 0 || !is_word(bytes[at - 1])) && (end == bytes.len() || !is_word(bytes[end]))
        })
        .collect()
}

/// Offset behind the bracket that closes the one at `open`; the end of the text when none does.
pub fn closing(code: &str, open: usize) -> usize {
    let bytes = code.as_bytes();
    let mut depth = 0usize;
    for (at, byte) in bytes.iter().enumerate().skip(open) {
        match byte {
            b'{' | b'(' | b'[' => depth += 1,
            b'}' | b')' | b']' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return at + 1;
                }
            }
            _ => {}
        }
    }
    bytes.len()
}

#[test]
fn splitting_keeps_code_and_drops_literals() {
    let check = |text: &str, code: &str, comments: &str| {
        let source = Source::new("a.rs", text);
        assert_eq!(source.code, code, "code of {text:?}");
        assert_eq!(source.comments, comments, "comments of {text:?}");
        assert_eq!(source.code.len(), text.len());
    };
    check("a // b\nc", "a     \nc", "  // b\n ");
    check("a /*b /*c*/ d*/ e", "a               e", "  /*b /*c*/ d*/  ");
}

#[test]
fn splitting_tells_literals_from_lifetimes() {
    let code = |text: &str| Source::new("a.rs", text).code.replace('\0', " ");
    assert_eq!(code(r#"f("x{", 1)"#), r#"f("  ", 1)"#);
    assert_eq!(code(r#"f("\"{")"#), r#"f("   ")"#);
    assert_eq!(code("f('{', '\\'', 'é')"), "f(\" \", \"  \", \"  \")");
    assert_eq!(code("fn f<'a>(x: &'a str)"), "fn f<'a>(x: &'a str)");
    assert_eq!(code("r##\"a\"#{\"## {"), "\"         \" {");
    assert_eq!(code("br\"//\" x"), "\"    \" x");
    assert_eq!(code("for_r\"x\""), "for_r\" \"");
}
