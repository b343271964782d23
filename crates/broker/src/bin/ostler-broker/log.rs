//! The log, in nats-server's layout: `[pid] 2026/11/21 00:00:00.000000 [INF] text`. To stderr or a file that can be
//! opened again after it was moved away. The library's events come in as a layer of `tracing`.
//!
//! Lines go through a bounded queue to a thread that writes them, because a pipe that nobody reads blocks its writer, and
//! whoever logs may be a thread that serves clients. What does not fit into the queue is dropped and counted; the count is
//! told in the log at that place.

mod pace;
mod writer;

use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use ostler_broker::conf::LogSettings;
use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

use self::pace::{Pace, Verdict};
use self::writer::{Entry, Out};

/// Lines that wait to be written: a few hundred kilobytes, and seconds of what a busy server says.
const LINES_MAX: usize = 4096;
/// Bytes of one line: what a client says of itself may be long.
const LINE_BYTES_MAX: usize = 4096;
/// How long the end of the program waits for its last lines. A reader that takes none gets none.
const LAST_WORDS: Duration = Duration::from_secs(1);

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
    queue: SyncSender<Entry>,
    /// Lines that did not fit into the queue and are not told yet.
    missing: AtomicU64,
    /// The file that the writer takes from now on. A lock for the moment of handing it over.
    reopened: Mutex<Option<File>>,
    path: Option<PathBuf>,
    /// What the library may say: 0 warnings, 1 what it does, 2 the details.
    verbosity: AtomicU8,
    time: bool,
    utc: bool,
    pid: u32,
}

impl Log {
    /// Opens the log and has the library write to it.
    ///
    /// # Errors
    /// The file cannot be opened, or there is no thread to be had.
    pub(crate) fn start(settings: &LogSettings) -> io::Result<Self> {
        let out = match &settings.file {
            Some(path) => Out::File(open(path)?),
            None => Out::Stderr,
        };
        let (queue, entries) = sync_channel(LINES_MAX);
        let log = Self(Arc::new(Inner {
            queue,
            missing: AtomicU64::new(0),
            reopened: Mutex::new(None),
            path: settings.file.clone(),
            verbosity: AtomicU8::new(0),
            time: settings.time.unwrap_or(true),
            utc: settings.utc,
            pid: std::process::id(),
        }));
        log.set_verbosity(settings);
        let writing = log.clone();
        thread::Builder::new()
            .name("log".into())
            .spawn(move || writer::write_all(&entries, out, &writing))?;
        // Fails when a subscriber is set already, which only a second call could have done.
        let _ = tracing_subscriber::registry().with(Bridge::new(log.clone())).try_init();
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
        let Some(path) = &self.0.path else { return Ok(false) };
        let file = open(path)?;
        *self.0.reopened.lock().unwrap_or_else(PoisonError::into_inner) = Some(file);
        Ok(true)
    }

    fn take_reopened(&self) -> Option<File> {
        self.0.reopened.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Waits until everything said so far is written, but not for ever: the reader may be gone or asleep.
    pub(crate) fn finish(&self) {
        let deadline = Instant::now() + LAST_WORDS;
        let (done, is_done) = sync_channel(1);
        let mut last = Entry::Flush(done);
        loop {
            match self.0.queue.try_send(last) {
                Ok(()) => break,
                Err(TrySendError::Full(back)) if Instant::now() < deadline => last = back,
                Err(_) => return,
            }
            // The queue is full: there is nothing to wait on but the writer's progress.
            thread::sleep(Duration::from_millis(5));
        }
        let _ = is_done.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    }

    fn write(&self, grade: Grade, text: &dyn fmt::Display) {
        let missing_before = self.0.missing.swap(0, Ordering::Relaxed);
        let line = Entry::Line { text: self.line(grade, text), missing_before };
        // A log that cannot be written must neither end the server nor hold it up.
        if self.0.queue.try_send(line).is_err() {
            self.0.missing.fetch_add(missing_before + 1, Ordering::Relaxed);
        }
    }

    fn line(&self, grade: Grade, text: &dyn fmt::Display) -> String {
        let mut line = format!("[{}] ", self.0.pid);
        if self.0.time {
            let zone = if self.0.utc { TimeZone::UTC } else { TimeZone::system() };
            push_time(&mut line, &Timestamp::now().to_zoned(zone));
        }
        // One event is one line of text, whatever a client managed to get into it.
        let text = text.to_string().replace(char::is_control, " ");
        let _ = write!(line, "[{}] {text}", grade.label());
        if line.len() > LINE_BYTES_MAX {
            let end = (0..=LINE_BYTES_MAX).rev().find(|end| line.is_char_boundary(*end)).unwrap_or(0);
            line.truncate(end);
            line.push_str("...");
        }
        line.push('\n');
        line
    }

    /// What stands where lines are missing, if any are.
    fn gap(&self, missing: u64) -> Option<String> {
        let text = format_args!("{missing} lines are missing here: the log was read or written too slowly");
        (missing > 0).then(|| self.line(Grade::Warning, &text))
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

/// Hands the library's events to the log. Of warnings that come in floods, which clients can cause, only some.
struct Bridge {
    log: Log,
    /// By the place in the program that warns, of which there are a few dozen. A lock for a look at a clock and a number.
    paces: Mutex<HashMap<Identifier, Pace>>,
}

impl Bridge {
    fn new(log: Log) -> Self {
        Self { log, paces: Mutex::default() }
    }

    /// Writes it, unless the same was said too often in this second.
    fn warn(&self, place: Identifier, grade: Grade, text: &Sentence) {
        let mut paces = self.paces.lock().unwrap_or_else(PoisonError::into_inner);
        let verdict = paces.entry(place).or_default().judge(Instant::now());
        drop(paces);
        match verdict {
            Verdict::Write => self.log.write(grade, text),
            Verdict::WriteAfter { left_out } => {
                self.log.write(grade, &format_args!("{} ({left_out} more before it)", text.message));
                self.log.write(grade, text);
            }
            Verdict::LastOne => {
                self.log.write(grade, text);
                let more = format_args!("{}: more of these are only counted for a second", text.message);
                self.log.write(grade, &more);
            }
            Verdict::LeaveOut => {}
        }
    }
}

impl<S: Subscriber> Layer<S> for Bridge {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let verbosity = self.log.0.verbosity.load(Ordering::Relaxed);
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
        if verbosity < needed || !(ours || needed == 0) {
            return;
        }
        let mut text = Sentence::default();
        event.record(&mut text);
        if needed == 0 {
            self.warn(event.metadata().callsite(), grade, &text);
        } else {
            self.log.write(grade, &text);
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
