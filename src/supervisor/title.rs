//! What `ps` shows of the server: `ringhorn: server [NAME] gen 1 ready`.
//!
//! Not on the walk of a request: a title changes with the server's state, never with a request.
//! Workers write their own, in their runtime.

use crate::sys::title::TitlePage;

/// The name under which workers are told `--name` (`Setup::options`).
pub const NAME_OPTION: &str = "name";

/// The server's title.
#[derive(Debug)]
pub struct Title {
    name: String,
    /// `None`: the kernel refuses.
    page: Option<TitlePage>,
}

impl Title {
    /// Shows that the server starts. Call it once, while the process has one thread.
    pub fn take(name: &str) -> Title {
        let page = match TitlePage::take(&title(name, None, "starting")) {
            Ok(page) => Some(page),
            Err(error) => {
                tracing::info!("the process title stays the command line: {error}");
                None
            }
        };
        Title { name: name.to_owned(), page }
    }

    /// Shows a generation and a state.
    pub fn show(&mut self, generation: u32, state: &str) {
        if let Some(page) = &mut self.page {
            page.write(&title(&self.name, Some(generation), state));
        }
    }
}

fn title(name: &str, generation: Option<u32>, state: &str) -> String {
    match generation {
        Some(generation) => format!("ringhorn: server [{name}] gen {generation} {state}"),
        None => format!("ringhorn: server [{name}] {state}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_generation_and_state() {
        assert_eq!(title("shop", None, "starting"), "ringhorn: server [shop] starting");
        assert_eq!(title("shop", Some(2), "ready"), "ringhorn: server [shop] gen 2 ready");
    }
}
