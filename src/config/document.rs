//! `docs/configuration.md`, made from the option rows; a test holds the file to them.

#![cfg(test)]

use super::options::{ROWS, Row, SECTIONS, Takes};
use super::value::spell_bytes;

const OPENING: &str = "\
# Configuration

Every option has a name on the command line (`--name VALUE` or `--name=VALUE`) and a variable in the
environment (`RINGHORN_NAME`). The command line comes before the environment, the environment before the
default. An unknown option is an error; a variable that looks like a misspelt one is a warning.

- A **SIZE** is a number of bytes, or one with `KiB`, `MiB`, `GiB`.
- **SECONDS** may have a fraction.
- A switch is on in the environment as `1`, `true`, `yes` or `on`.
- An option that may be repeated takes a list in the environment: pieces between commas, or lines.
- Relative paths are those of the directory in which the server was started.

The application is the one argument: `module:callable`, `module:factory()`, `file.py` or
`file.py:attribute`; the attribute defaults to `application`, then `app`. Its variable is
`RINGHORN_APPLICATION`.

This page is made from the table in `src/config/options.rs`; `RINGHORN_WRITE_DOCS=1 cargo test document`
writes it.
";

/// The page.
fn page() -> String {
    let mut page = OPENING.to_owned();
    for section in SECTIONS {
        page.push_str(&format!("\n## {section}\n"));
        for row in ROWS.iter().filter(|row| row.section == *section) {
            page.push_str(&entry(row));
        }
    }
    page
}

fn entry(row: &Row) -> String {
    let value = row.value_name().map(|name| format!(" {name}")).unwrap_or_default();
    let short = row.short.map(|short| format!(", `-{short}`")).unwrap_or_default();
    let mut facts = vec![format!("`{}`", row.variable())];
    facts.extend(row.also.map(|variable| format!("then `{variable}`")));
    let mut facts = vec![format!("environment {}", facts.join(", "))];
    facts.extend(range(row));
    if !row.default.is_empty() {
        facts.push(format!("default `{}`", row.default));
    }
    format!("\n### `--{}{value}`{short}\n\n{}\n\n*{}*\n", row.name, row.doc, facts.join("; "))
}

fn range(row: &Row) -> Option<String> {
    match row.takes {
        Takes::Number(lowest, highest) | Takes::NumberOrAuto(lowest, highest) => {
            Some(format!("{lowest} to {highest}"))
        }
        Takes::Bytes(lowest, highest) => {
            Some(format!("{} to {}", spell_bytes(lowest), spell_bytes(highest)))
        }
        _ => None,
    }
}

#[test]
fn the_page_says_what_the_table_says() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");
    if std::env::var_os("RINGHORN_WRITE_DOCS").is_some() {
        std::fs::write(path, page()).unwrap();
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        written == page(),
        "{path} is not what the options say: RINGHORN_WRITE_DOCS=1 writes it"
    );
}
