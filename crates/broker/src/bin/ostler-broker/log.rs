//! The log, in nats-server's layout: `[pid] 2026/11/21 00:00:00.000000 [INF] text`. To stderr or a file that can be
//! opened again after it was moved away. The library's events come in as a layer of `tracing`.

use std::fmt::{self, Write as _};
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use ostler_broker::conf::LogSettings;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

/// How grave a line is, as nats-server abbreviates it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Grade {
    Fatal,
    Error,
    Warning,
    Info,
    Debug,
    Trace,
}

impl Grade {
    fn label(self) -> &'static str {
        match self {
            Self::Fatal => "FTL",
            Self::Error => "ERR",
            Self::Warning => "WRN",
            Self::Info => "INF",
            Self::Debug => "DBG",
            Self::Trace => "TRC",
        }
    }
}

/// The log of the process. Cheap to clone: clones write to the same place.
#[derive(Clone)]
pub(crate) struct Log(Arc<Inner>);

struct Inner {
    /// Written under a lock, line by line: the lines of several threads must not mix.
    out: Mutex<Out>,
    /// What the library may say: 0 warnings, 1 what it does, 2 the details.
    verbosity: AtomicU8,
    time: bool,
    utc: bool,
    pid: u32,
}

enum Out {
    Stderr,
    File(File, PathBuf),
}

impl Log {
    /// Opens the log and has the library write to it.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub(crate) fn start(settings: &LogSettings) -> io::Result<Self> {
        let out = match &settings.file {
            Some(path) => Out::File(open(path)?, path.clone()),
            None => Out::Stderr,
        };
        let log = Self(Arc::new(Inner {
            out: Mutex::new(out),
            verbosity: AtomicU8::new(0),
            time: settings.time.unwrap_or(true),
            utc: settings.utc,
            pid: std::process::id(),
        }));
        log.set_verbosity(settings);
        // Fails when a subscriber is set already, which only a second call could have done.
        let _ = tracing_subscriber::registry().with(Bridge(log.clone())).try_init();
        Ok(log)
    }

    /// Applies `debug` and `trace`.
    pub(crate) fn set_verbosity(&self, settings: &LogSettings) {
        let verbosity = match (settings.debug, settings.trace) {
            (_, true) => 2,
            (true, false) => 1,
            (false, false) => 0,
        };
        self.0.verbosity.store(verbosity, Ordering::Relaxed);
    }

    pub(crate) fn info(&self, text: impl fmt::Display) {
        self.write(Grade::Info, &text);
    }

    pub(crate) fn warn(&self, text: impl fmt::Display) {
        self.write(Grade::Warning, &text);
    }

    pub(crate) fn error(&self, text: impl fmt::Display) {
        self.write(Grade::Error, &text);
    }

    pub(crate) fn fatal(&self, text: impl fmt::Display) {
        self.write(Grade::Fatal, &text);
    }

    /// Opens the file again under its name, after a rotation moved it away. Returns whether there is a file.
    ///
    /// # Errors
    /// It cannot be opened; the old one goes on.
    pub(crate) fn reopen(&self) -> io::Result<bool> {
        let mut out = self.0.out.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *out {
            Out::Stderr => Ok(false),
            Out::File(file, path) => {
                *file = open(path)?;
                Ok(true)
            }
        }
    }

    fn write(&self, grade: Grade, text: &dyn fmt::Display) {
        let mut line = format!("[{}] ", self.0.pid);
        if self.0.time {
            let zone = if self.0.utc { TimeZone::UTC } else { TimeZone::system() };
            push_time(&mut line, &Timestamp::now().to_zoned(zone));
        }
        // One event is one line of text, whatever a client managed to get into it.
        let text = text.to_string().replace(char::is_control, " ");
        let _ = writeln!(line, "[{}] {text}", grade.label());
        let mut out = self.0.out.lock().unwrap_or_else(PoisonError::into_inner);
        // A log that cannot be written must not end the server.
        let _ = match &mut *out {
            Out::Stderr => io::stderr().lock().write_all(line.as_bytes()),
            Out::File(file, _) => file.write_all(line.as_bytes()),
        };
    }
}

/// `2026/11/21 00:00:00.000000 `
fn push_time(line: &mut String, now: &Zoned) {
    let _ = write!(
        line,
        "{:04}/{:02}/{:02} {:02}:{:02}:{:02}.{:06} ",
        now.year(),
        now.month(),
        now.day(),
        now.hour(),
        now.minute(),
        now.second(),
        now.subsec_nanosecond() / 1000
    );
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// Hands the library's events to the log.
struct Bridge(Log);

impl<S: Subscriber> Layer<S> for Bridge {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let verbosity = self.0.0.verbosity.load(Ordering::Relaxed);
        let level = *event.metadata().level();
        // The program says itself what nats-server says at [INF]; what the library adds is for -D.
        let (grade, needed) = match level {
            Level::ERROR => (Grade::Error, 0),
            Level::WARN => (Grade::Warning, 0),
            Level::INFO | Level::DEBUG => (Grade::Debug, 1),
            _ => (Grade::Trace, 2),
        };
        // Other libraries tell in detail what nobody asked for.
        let ours = event.metadata().target().starts_with("ostler");
        if verbosity >= needed && (ours || needed == 0) {
            let mut text = Sentence::default();
            event.record(&mut text);
            self.0.write(grade, &text);
        }
    }
}

/// An event as one line: its message, then its fields.
#[derive(Default)]
struct Sentence {
    message: String,
    fields: String,
}

impl Visit for Sentence {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}

impl fmt::Display for Sentence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.message, self.fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_laid_out_as_by_nats_server() {
        let moment: Timestamp = "2026-11-21T01:02:03.000456789Z".parse().unwrap();
        let mut line = String::new();
        push_time(&mut line, &moment.to_zoned(TimeZone::UTC));
        assert_eq!(line, "2026/11/21 01:02:03.000456 ");
    }
}
