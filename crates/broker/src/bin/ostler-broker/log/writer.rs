//! The thread that writes the log: the only one that waits for whoever reads it.

use std::fs::File;
use std::io::{self, Write};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError};

use super::Log;

/// What waits to be written.
pub(super) enum Entry {
    Line {
        /// With its newline.
        text: String,
        /// Lines before it that did not fit into the queue.
        missing_before: u64,
    },
    /// Answered when everything before it is written.
    Flush(SyncSender<()>),
}

/// Where the log goes.
pub(super) enum Out {
    Stderr,
    File(File),
}

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Stderr => io::stderr().write(bytes),
            Self::File(file) => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes until the program ends.
pub(super) fn write_all(entries: &Receiver<Entry>, mut out: Out, log: &Log) {
    while let Some(entry) = next(entries, &mut out, log) {
        if let Some(file) = log.take_reopened() {
            out = Out::File(file);
        }
        write(entry, &mut out, log);
    }
}

/// The next entry. Before it waits for one it tells what is missing at the end, where no later line would.
fn next(entries: &Receiver<Entry>, out: &mut impl Write, log: &Log) -> Option<Entry> {
    match entries.try_recv() {
        Ok(entry) => return Some(entry),
        Err(TryRecvError::Disconnected) => return None,
        Err(TryRecvError::Empty) => {}
    }
    tell_gap(log.0.missing.swap(0, Ordering::Relaxed), out, log);
    entries.recv().ok()
}

fn write(entry: Entry, out: &mut impl Write, log: &Log) {
    match entry {
        Entry::Line { text, missing_before } => {
            tell_gap(missing_before, out, log);
            // There is nobody to tell that the log cannot be written.
            let _ = out.write_all(text.as_bytes());
        }
        Entry::Flush(done) => {
            tell_gap(log.0.missing.swap(0, Ordering::Relaxed), out, log);
            let _ = done.try_send(());
        }
    }
}

fn tell_gap(missing: u64, out: &mut impl Write, log: &Log) {
    if let Some(gap) = log.gap(missing) {
        let _ = out.write_all(gap.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU8, AtomicU64};
    use std::sync::mpsc::sync_channel;

    use super::super::Inner;
    use super::*;

    /// A log with room for so many lines that nobody writes yet.
    fn log(lines: usize) -> (Log, Receiver<Entry>) {
        let (queue, entries) = sync_channel(lines);
        let inner = Inner {
            queue,
            missing: AtomicU64::new(0),
            reopened: None.into(),
            path: None,
            verbosity: AtomicU8::new(0),
            time: false,
            utc: false,
            pid: 7,
        };
        (Log(Arc::new(inner)), entries)
    }

    #[test]
    fn what_does_not_fit_is_counted_and_told_at_its_place() {
        let (log, entries) = log(2);
        for number in 1..=5 {
            log.info(number);
        }
        let mut out = Vec::new();
        write(next(&entries, &mut out, &log).unwrap(), &mut out, &log);
        log.info(6);
        log.info(7);
        for _ in 0..2 {
            write(next(&entries, &mut out, &log).unwrap(), &mut out, &log);
        }
        tell_gap(log.0.missing.swap(0, Ordering::Relaxed), &mut out, &log);
        let gap = |lines| {
            format!("[7] [WRN] {lines} lines are missing here: the log was read or written too slowly\n")
        };
        let expected = format!("[7] [INF] 1\n[7] [INF] 2\n{}[7] [INF] 6\n{}", gap(3), gap(1));
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn the_end_waits_for_the_last_line_but_not_for_a_reader_that_sleeps() {
        let (log, entries) = log(1);
        log.info("last");
        std::thread::scope(|scope| {
            scope.spawn(|| log.finish());
            let mut out = Vec::new();
            for _ in 0..2 {
                let entry = next(&entries, &mut out, &log).unwrap();
                write(entry, &mut out, &log);
            }
            assert_eq!(out, b"[7] [INF] last\n");
        });
        log.info("nobody takes it");
        log.finish();
    }

    #[test]
    fn a_line_has_an_end_and_no_line_in_it() {
        let (log, entries) = log(1);
        log.warn(format_args!("a\nb{}", "ä".repeat(10_000)));
        let mut out = Vec::new();
        write(entries.try_recv().unwrap(), &mut out, &log);
        let text = String::from_utf8(out).unwrap();
        assert!(text.starts_with("[7] [WRN] a bä") && text.ends_with("ä...\n") && text.len() < 5000);
    }
}
