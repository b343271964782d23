//! The few styles of the whole command, named by meaning.

use std::fmt::Display;

use anstyle::{AnsiColor, Style};

fn painted(style: Style, text: impl Display) -> String {
    format!("{style}{text}{style:#}")
}

/// What matters less.
pub(crate) fn dim(text: impl Display) -> String {
    painted(Style::new().dimmed(), text)
}

/// A name or a headline.
pub(crate) fn strong(text: impl Display) -> String {
    painted(Style::new().bold(), text)
}

/// As it should be.
pub(crate) fn good(text: impl Display) -> String {
    painted(AnsiColor::Green.on_default(), text)
}

/// Worth a look.
pub(crate) fn warning(text: impl Display) -> String {
    painted(AnsiColor::Yellow.on_default(), text)
}

/// Wrong.
pub(crate) fn error(text: impl Display) -> String {
    painted(AnsiColor::Red.on_default().bold(), text)
}

/// The next step.
pub(crate) fn hint(text: impl Display) -> String {
    painted(AnsiColor::Cyan.on_default(), text)
}
