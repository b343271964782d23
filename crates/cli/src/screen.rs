//! The one door to the terminal: lines for people, JSON for programs, notes and errors beside them on standard error.

use std::io::{self, Write};

use serde::Serialize;

use crate::exit::{Exit, Failure, Outcome};
use crate::render::style;

/// How much a person wants to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Detail {
    /// Results and errors only.
    Quiet,
    /// The default.
    Normal,
    /// Also what is not needed to understand the result.
    Verbose,
}

/// Whom the output is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Text,
    Json,
}

/// Where a command prints.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Screen {
    pub(crate) format: Format,
    pub(crate) detail: Detail,
}

impl Screen {
    pub(crate) fn is_json(self) -> bool {
        self.format == Format::Json
    }

    /// Prints text as it is; colours are stripped where they do not belong.
    pub(crate) fn text(self, text: &str) -> Outcome {
        let mut out = anstream::stdout().lock();
        written(out.write_all(text.as_bytes()).and_then(|()| out.flush()))
    }

    /// Prints one line.
    pub(crate) fn line(self, line: impl std::fmt::Display) -> Outcome {
        self.text(&format!("{line}\n"))
    }

    /// Prints bytes of an agent untouched, colours of its own included.
    pub(crate) fn raw(self, bytes: &[u8], to: Target) -> Outcome {
        let write = |out: &mut dyn Write| out.write_all(bytes).and_then(|()| out.flush());
        written(match to {
            Target::Out => write(&mut io::stdout().lock()),
            Target::Err => write(&mut io::stderr().lock()),
        })
    }

    /// Prints one JSON line.
    pub(crate) fn json<T: Serialize + ?Sized>(self, value: &T) -> Outcome {
        let text = serde_json::to_string(value).expect("wire messages have string keys and always serialise");
        self.raw(format!("{text}\n").as_bytes(), Target::Out)
    }

    /// Prints a message of the protocol: as JSON, or as the sentence made from it.
    pub(crate) fn reply<T: Serialize>(self, value: &T, sentence: impl FnOnce(&T) -> String) -> Outcome {
        match self.format {
            Format::Json => self.json(value),
            Format::Text if self.detail == Detail::Quiet => Ok(()),
            Format::Text => self.line(sentence(value)),
        }
    }

    /// Tells a person something beside the result, on standard error; never in JSON and never when quiet.
    pub(crate) fn note(self, text: impl std::fmt::Display) {
        if self.format == Format::Text && self.detail != Detail::Quiet {
            // Nobody reads a broken standard error; the command's result does not depend on it.
            let _ = writeln!(anstream::stderr().lock(), "{}", style::dim(text));
        }
    }

    /// Tells why the command failed and what to do.
    pub(crate) fn failure(self, failure: &Failure) {
        let mut err = anstream::stderr().lock();
        // As above: where the error cannot be shown, the exit code still tells it.
        let _ = match self.format {
            Format::Json => writeln!(err, "{}", failure.to_json()),
            Format::Text => {
                let hint = failure.hint.as_ref().map(|hint| format!("{} {hint}\n", style::hint("hint:")));
                write!(err, "{} {}\n{}", style::error("error:"), failure.message, hint.unwrap_or_default())
            }
        };
    }
}

/// One of the two standard streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    Out,
    Err,
}

/// The message of the failure that means: whoever read our output has stopped reading.
const READER_GONE: &str = "nobody reads the output";

fn written(result: io::Result<()>) -> Outcome {
    result.map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::new(Exit::Failed, READER_GONE),
        _ => Failure::io("the output cannot be written", &error),
    })
}

/// True for the failure of a command like `ostler logs a | head`: nothing to complain about.
pub(crate) fn is_reader_gone(failure: &Failure) -> bool {
    failure.message == READER_GONE
}
