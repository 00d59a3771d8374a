//! A request and its answer as bytes.
//!
//! ```text
//! request: one word and a line end: "reload\n"
//! answer:  "ok\n" text…            to the end of the stream
//!          "error MESSAGE\nhint HINT\n" text…
//! ```
//! MESSAGE and HINT are one line each; HINT may be empty; the text is what a terminal is to show
//! first (a traceback, a table).

/// Longest request line, its end included.
pub const REQUEST_BYTES_MAX: usize = 64;
/// Longest answer a client reads.
pub const ANSWER_BYTES_MAX: u64 = 1 << 20;

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Start a new generation of workers; answered when it serves, or was given up.
    Reload,
    /// Tell how the server is.
    Status,
}

impl Request {
    /// All of them with their words.
    pub const ALL: [(Request, &str); 2] =
        [(Request::Reload, "reload"), (Request::Status, "status")];

    /// Its word.
    pub fn word(self) -> &'static str {
        let named = Request::ALL.iter().find(|(request, _)| *request == self);
        named.map_or("", |(_, word)| word)
    }

    /// The request of a line.
    pub fn parse(line: &str) -> Option<Request> {
        let word = line.trim_end_matches(['\r', '\n']);
        Request::ALL.iter().find(|(_, known)| *known == word).map(|(request, _)| *request)
    }
}

/// How it went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Done; what there is to say.
    Done(String),
    /// Not done.
    Refused {
        /// What failed, one line.
        message: String,
        /// What to do, one line; may be empty.
        hint: String,
        /// What stands behind it, such as a traceback; may be empty.
        text: String,
    },
}

impl Answer {
    /// As bytes.
    pub fn encode(&self) -> Vec<u8> {
        let line = |text: &str| text.replace(['\r', '\n'], " ");
        match self {
            Answer::Done(text) => format!("ok\n{text}"),
            Answer::Refused { message, hint, text } => {
                format!("error {}\nhint {}\n{text}", line(message), line(hint))
            }
        }
        .into_bytes()
    }

    /// From bytes; `None` when they are no answer, or the beginning of one.
    pub fn decode(bytes: &[u8]) -> Option<Answer> {
        let text = String::from_utf8_lossy(bytes);
        let (first, rest) = text.split_once('\n')?;
        if first == "ok" {
            return Some(Answer::Done(rest.to_owned()));
        }
        let message = first.strip_prefix("error ")?.to_owned();
        let (second, rest) = rest.split_once('\n')?;
        let hint = second.strip_prefix("hint ")?.to_owned();
        Some(Answer::Refused { message, hint, text: rest.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_come_back_as_they_went() {
        let refused = Answer::Refused {
            message: "cannot load".into(),
            hint: String::new(),
            text: "Traceback\n  line\n".into(),
        };
        for answer in [Answer::Done("two\nlines".into()), refused] {
            assert_eq!(Answer::decode(&answer.encode()), Some(answer));
        }
    }

    #[test]
    fn a_message_of_two_lines_cannot_pass_for_an_answers_other_parts() {
        let refused = |message: &str| Answer::Refused {
            message: message.into(),
            hint: "h".into(),
            text: String::new(),
        };
        assert_eq!(Answer::decode(&refused("a\nhint b").encode()), Some(refused("a hint b")));
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        for bytes in ["", "ok", "no\n", "error x\n", "error x\nhint y"] {
            assert_eq!(Answer::decode(bytes.as_bytes()), None, "{bytes}");
        }
    }

    #[test]
    fn requests_have_words() {
        for (request, word) in Request::ALL {
            assert_eq!(Request::parse(&format!("{word}\n")), Some(request));
            assert_eq!(request.word(), word);
        }
        assert_eq!(Request::parse("reload now\n"), None);
    }
}
