//! What somebody may have meant: the nearest known name, or ours for another server's.

use super::options::ROWS;

/// Names of gunicorn, uWSGI and granian that differ from ours but mean one of ours without doubt.
const ELSEWHERE: &[(&str, &str)] = &[
    ("access-log", "access-logfile"),
    ("access-log-format", "access-logformat"),
    ("buffer-size", "limit-request-head"),
    ("cheaper", "workers-min"),
    ("check-config", "check"),
    ("cpu-list", "cpu-affinity"),
    ("evil-reload-on-rss", "max-rss"),
    ("home", "python"),
    ("host", "bind"),
    ("http", "bind"),
    ("http-socket", "bind"),
    ("http-keepalive", "keep-alive"),
    ("http-timeout", "body-timeout"),
    ("http1-header-read-timeout", "header-timeout"),
    ("limit-post", "limit-request-body"),
    ("limit-request-field_size", "limit-request-field-size"),
    ("listen", "backlog"),
    ("log-file", "error-logfile"),
    ("logto", "error-logfile"),
    ("port", "bind"),
    ("processes", "workers"),
    ("py-autoreload", "reload"),
    ("python-path", "pythonpath"),
    ("reload-on-rss", "max-rss"),
    ("reload-paths", "reload-extra-file"),
    ("runtime-threads", "event-loops"),
    ("socket", "bind"),
    ("uds", "bind"),
    ("venv", "python"),
    ("virtualenv", "python"),
    ("worker-connections", "max-inflight"),
    ("worker-reload-mercy", "graceful-timeout"),
    ("workers-lifetime", "max-worker-lifetime"),
    ("workers-max-rss", "max-rss"),
    ("workers-kill-timeout", "graceful-timeout"),
    ("working-dir", "chdir"),
];

/// A hint for an unknown option as it was said (`--workrs`, `--workrs=2`, `-x`).
pub fn option(said: &str) -> Option<String> {
    let name = said.trim_start_matches('-').split('=').next().unwrap_or_default();
    let elsewhere = ELSEWHERE.iter().find(|(theirs, _)| *theirs == name).map(|(_, ours)| *ours);
    let known = ROWS.iter().map(|row| row.name).chain(["help", "version"]);
    let ours = elsewhere.or_else(|| nearest(name, known))?;
    Some(format!("did you mean `--{ours}`? `ringhorn --help` lists every option"))
}

/// The known name with the fewest slips to a text, if they are few for its length.
pub fn nearest<'a>(text: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let with_slips = known.map(|name| (slips(text, name), name));
    let (slips, name) = with_slips.min_by_key(|(slips, _)| *slips)?;
    // Of three letters or fewer, any other word is near.
    let allowed = text.len().min(name.len()) / 4 + usize::from(text.len() > 3);
    (slips <= allowed.min(3)).then_some(name)
}

/// Letters to insert, remove, replace or swap with a neighbour between two words.
fn slips(left: &str, right: &str) -> usize {
    let (left, right) = (left.as_bytes(), right.as_bytes());
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=right.len()).collect();
    for i in 1..=left.len() {
        let mut row = vec![i; right.len() + 1];
        for j in 1..=right.len() {
            let replaced = above[j - 1] + usize::from(left[i - 1] != right[j - 1]);
            row[j] = replaced.min(above[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && left[i - 1] == right[j - 2] && left[i - 2] == right[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut above, row);
    }
    above[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_slips() {
        for (left, right, expected) in [
            ("", "", 0),
            ("a", "", 1),
            ("workers", "workers", 0),
            ("workrs", "workers", 1),
            ("wrokers", "workers", 1),
            ("bind", "bond", 1),
            ("abc", "xyz", 3),
        ] {
            assert_eq!(slips(left, right), expected, "{left} {right}");
        }
    }

    #[test]
    fn suggests() {
        let check = |said: &str, expected: Option<&str>| {
            let hint = option(said);
            let name = hint.as_deref().and_then(|hint| hint.split('`').nth(1));
            assert_eq!(name, expected, "{said}");
        };
        check("--workrs", Some("--workers"));
        check("--worker=2", Some("--workers"));
        check("--graceful-timout", Some("--graceful-timeout"));
        check("--access-logformta", Some("--access-logformat"));
        check("--virtualenv", Some("--python"));
        check("--potato-mode", None);
        check("-z", None);
    }

    #[test]
    fn other_servers_names_lead_to_ours() {
        for (theirs, ours) in ELSEWHERE {
            assert!(ROWS.iter().any(|row| row.name == *ours), "{theirs} -> {ours}");
            assert!(!ROWS.iter().any(|row| row.name == *theirs), "{theirs} is an option");
        }
    }
}
