//! `ostler-broker check`: looks at streams on disk without a server, and mends them when told to. What damage is and how
//! it is mended is the store's affair; here is which directories, in whose way, and how it is said.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use ostler_broker_store::disk::{Disk, RealDisk};
use ostler_broker_store::{DirLock, Error, Report, Severity};
use ostler_jetstream::{check, repair};

use crate::jetstream::OURS;
use crate::run::complain;

/// Nothing that was stored is damaged.
const CLEAN: u8 = 0;
/// Something was stored and cannot be read.
const DAMAGED: u8 = 1;
/// Not everything could be looked at, or mended.
const FAILED: u8 = 2;
/// More bytes than this take long enough that somebody who waits wants to know where it is.
const LONG_WORK: u64 = 256 << 20;

/// The text of `check --help`.
const USAGE: &str = "
Usage: NAME check <dir> [--repair] [--json]

Reads every byte of streams on disk and says what is damaged. No server may use them meanwhile.

    <dir>       What was given to the server as -sd, the state directory of a daemon that has its own bus, or the
                directory of one stream
    --repair    Go on without what is damaged: it is lost then, and counts as deleted. Damaged files are kept beside
                as *.damaged. Restore a backup instead where there is one.
    --json      One JSON object instead of text

Exit codes:
    0    nothing that was stored is damaged (there may be warnings)
    1    something is damaged; with --repair it was, and is mended
    2    could not look at everything, or not mend it: in use, not there, no permission
";

/// What is asked for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Request {
    dir: PathBuf,
    repair: bool,
    json: bool,
}

/// Streams and the directory whose lock guards them.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    guarded: Option<PathBuf>,
    streams: Vec<PathBuf>,
}

/// What came of one stream.
struct Checked {
    name: String,
    dir: PathBuf,
    outcome: Result<Report, Error>,
}

/// Runs the command with the arguments behind its name.
pub(crate) fn main(arguments: impl Iterator<Item = OsString>, name: &str) -> ExitCode {
    let request = match parse(arguments) {
        Ok(Some(request)) => request,
        Ok(None) => {
            let _ = io::stdout().write_all(USAGE.replace("NAME", name).as_bytes());
            return ExitCode::SUCCESS;
        }
        Err(problem) => {
            complain(format_args!("{name} check: {problem}"));
            return ExitCode::from(FAILED);
        }
    };
    match run(&request) {
        Ok(checked) => {
            let text = if request.json { json(&checked) } else { text(&checked, &request, name) };
            // Who closed the pipe has seen enough; the exit code says the rest.
            let _ = io::stdout().write_all(text.as_bytes());
            ExitCode::from(verdict(&checked))
        }
        Err(problem) => {
            complain(format_args!("{name} check: {problem}"));
            ExitCode::from(FAILED)
        }
    }
}

/// `None` asks for help.
fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Option<Request>, String> {
    let mut request = Request::default();
    let mut dir = None;
    for argument in arguments {
        match argument.to_str() {
            Some("--repair" | "-repair") => request.repair = true,
            Some("--json" | "-json") => request.json = true,
            Some("--help" | "-help" | "-h") => return Ok(None),
            Some(flag) if flag.starts_with('-') => {
                return Err(format!("flag provided but not defined: {flag}; see check --help"));
            }
            _ if dir.is_some() => return Err(format!("one directory at a time; {argument:?} is another")),
            _ => dir = Some(PathBuf::from(argument)),
        }
    }
    request.dir = dir.ok_or("which directory? give the one that the server has as -sd; see check --help")?;
    Ok(Some(request))
}

fn run(request: &Request) -> Result<Vec<Checked>, String> {
    let place = locate(&RealDisk, &request.dir)?;
    let lock = match &place.guarded {
        None => None,
        Some(dir) if request.repair => Some(DirLock::take(dir).map_err(|error| with_reason(&error))?),
        Some(dir) => DirLock::take_to_read(dir).map_err(|error| with_reason(&error))?,
    };
    let long = place.streams.iter().map(|dir| bytes_in(dir)).sum::<u64>() > LONG_WORK;
    let count = place.streams.len();
    let mut checked = Vec::new();
    for (index, dir) in place.streams.into_iter().enumerate() {
        let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if long {
            complain(format_args!("{name} ({} of {count}, {} bytes)", index + 1, bytes_in(&dir)));
        }
        if request.repair {
            check_owner(&dir)?;
        }
        let disk = Arc::new(RealDisk);
        let outcome = if request.repair { mended(disk, &dir) } else { check(disk, &dir) };
        checked.push(Checked { name, dir, outcome });
    }
    drop(lock);
    Ok(checked)
}

/// Mends what has something to mend; nothing is written to the others.
fn mended(disk: Arc<dyn Disk>, dir: &Path) -> Result<Report, Error> {
    let found = check(Arc::clone(&disk), dir)?;
    if found.severity().is_none_or(|severity| severity == Severity::Info) {
        return Ok(found);
    }
    repair(disk, dir)
}

/// Finds the streams that a directory stands for.
fn locate(disk: &dyn Disk, dir: &Path) -> Result<Place, String> {
    let shown = dir.display();
    match std::fs::metadata(dir) {
        Err(error) => return Err(format!("cannot read {shown}: {error}")),
        Ok(metadata) if !metadata.is_dir() => return Err(format!("{shown} is no directory")),
        Ok(_) => {}
    }
    // The way from here up must have names.
    let dir = dir.canonicalize().map_err(|error| format!("cannot read {shown}: {error}"))?;
    // What has a directory of that name may keep other things than streams, with a lock that is not the streams'.
    for store in [dir.join(OURS), dir.join("streams"), dir.clone()] {
        let streams = store.join("streams");
        if streams.is_dir() && !is_stream(disk, &streams) {
            return Ok(Place { streams: streams_in(disk, &streams)?, guarded: Some(store) });
        }
    }
    let above = |dir: &Path| dir.parent().map(Path::to_owned);
    if dir.file_name().is_some_and(|name| name == "streams") && !is_stream(disk, &dir) {
        return Ok(Place { streams: streams_in(disk, &dir)?, guarded: above(&dir) });
    }
    if is_stream(disk, &dir) {
        let parent = above(&dir).filter(|parent| parent.file_name().is_some_and(|name| name == "streams"));
        return Ok(Place { guarded: parent.and_then(|parent| above(&parent)), streams: vec![dir] });
    }
    Err(format!(
        "there are no streams in {shown}; give the directory that the server has as -sd, or that of one stream"
    ))
}

fn streams_in(disk: &dyn Disk, dir: &Path) -> Result<Vec<PathBuf>, String> {
    let mut names = disk.list_dirs(dir).map_err(|error| format!("cannot read {}: {error}", dir.display()))?;
    // Those begin with a dot that were being removed; the server goes on with that when it starts.
    names.retain(|name| !name.starts_with('.'));
    names.sort();
    Ok(names.into_iter().map(|name| dir.join(name)).collect())
}

fn is_stream(disk: &dyn Disk, dir: &Path) -> bool {
    let ours = |name: &String| name == "mark" || name.starts_with("manifest.") || name.ends_with(".seg");
    disk.list(dir).is_ok_and(|names| names.iter().any(ours))
}

fn bytes_in(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len()).sum()
}

/// A server that runs as somebody else could not write files that are made here.
fn check_owner(dir: &Path) -> Result<(), String> {
    let owner =
        std::fs::metadata(dir).map_err(|error| format!("cannot read {}: {error}", dir.display()))?.uid();
    let ours = rustix::process::geteuid().as_raw();
    if owner == ours {
        return Ok(());
    }
    Err(format!(
        "{} belongs to user {owner} and this is user {ours}: its server could not write what is mended; run this as \
         that user, for instance with sudo -u '#{owner}'",
        dir.display()
    ))
}

fn with_reason(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(reason) = source {
        let _ = write!(text, ": {reason}");
        source = reason.source();
    }
    text
}

fn is_damaged(report: &Report) -> bool {
    report.severity() == Some(Severity::Damage)
}

fn verdict(checked: &[Checked]) -> u8 {
    let one = |checked: &Checked| match &checked.outcome {
        Err(_) => FAILED,
        Ok(report) if is_damaged(report) => DAMAGED,
        Ok(_) => CLEAN,
    };
    checked.iter().map(one).max().unwrap_or(CLEAN)
}

fn text(checked: &[Checked], request: &Request, name: &str) -> String {
    let mut out = String::new();
    let (mut damaged, mut failed, mut lost) = (0, 0, 0);
    for Checked { name, dir, outcome } in checked {
        match outcome {
            Ok(report) => {
                damaged += usize::from(is_damaged(report));
                lost += report.lost;
                let mended = if report.repaired { ", mended" } else { "" };
                for finding in &report.findings {
                    let _ = writeln!(out, "{name}: {finding}");
                }
                let _ = writeln!(
                    out,
                    "{name}: {} messages ({} bytes) from {} to {}, {} lost{mended}",
                    report.messages, report.bytes, report.first_seq, report.last_seq, report.lost
                );
            }
            Err(error) => {
                failed += 1;
                let _ =
                    writeln!(out, "{name}: cannot be checked ({}): {}", dir.display(), with_reason(error));
            }
        }
    }
    let streams = if checked.len() == 1 { "stream" } else { "streams" };
    let _ = write!(out, "{} {streams}, {damaged} damaged", checked.len());
    if failed > 0 {
        let _ = write!(out, ", {failed} not checked");
    }
    out.push('\n');
    if damaged > 0 && !request.repair {
        let what = if lost > 0 { format!("the {lost} lost messages") } else { "what is damaged".to_owned() };
        let _ = writeln!(
            out,
            "Restore a backup, or go on without {what}: {name} check --repair {}",
            request.dir.display()
        );
    }
    out
}

fn json(checked: &[Checked]) -> String {
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let one = |checked: &Checked| {
        let what = match &checked.outcome {
            Ok(report) => format!(r#""report":{}"#, report.to_json()),
            Err(error) => format!(r#""error":{}"#, quoted(&with_reason(error))),
        };
        format!(
            r#"{{"stream":{},"directory":{},{what}}}"#,
            quoted(&checked.name),
            quoted(&checked.dir.to_string_lossy())
        )
    };
    let streams: Vec<String> = checked.iter().map(one).collect();
    let count = |wanted: fn(&Checked) -> bool| checked.iter().filter(|checked| wanted(checked)).count();
    let damaged = count(|checked| checked.outcome.as_ref().is_ok_and(is_damaged));
    let failed = count(|checked| checked.outcome.is_err());
    format!("{{\"damaged\":{damaged},\"failed\":{failed},\"streams\":[{}]}}\n", streams.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Option<Request>, String> {
        parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn a_directory_is_needed_and_flags_may_stand_anywhere() {
        let request = read("--json dir --repair").unwrap().unwrap();
        assert_eq!(request, Request { dir: "dir".into(), repair: true, json: true });
        assert_eq!(read("dir --help").unwrap(), None);
        for (line, says) in
            [("", "which directory"), ("a b", "one directory"), ("--mend a", "not defined: --mend")]
        {
            assert!(read(line).unwrap_err().contains(says), "{line}");
        }
    }

    #[test]
    fn the_same_streams_are_found_from_every_directory_above_them() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        let store = root.join(OURS);
        let streams = ["A", "B"].map(|name| store.join("streams").join(name));
        for stream in &streams {
            std::fs::create_dir_all(stream).unwrap();
            std::fs::write(stream.join("mark"), "").unwrap();
        }
        std::fs::create_dir_all(store.join("streams/.deleted-1")).unwrap();
        let all = Place { guarded: Some(store.clone()), streams: streams.to_vec() };
        for dir in [&root, &store, &store.join("streams")] {
            assert_eq!(locate(&RealDisk, dir).unwrap(), all, "{}", dir.display());
        }
        let one = Place { guarded: Some(store), streams: vec![streams[0].clone()] };
        assert_eq!(locate(&RealDisk, &streams[0]).unwrap(), one);
    }

    #[test]
    fn the_state_of_a_daemon_is_left_alone_but_for_its_streams() {
        let root = tempfile::tempdir().unwrap();
        let state = root.path().canonicalize().unwrap();
        let stream = state.join("streams/streams/AUDIT");
        std::fs::create_dir_all(&stream).unwrap();
        std::fs::write(stream.join("mark"), "").unwrap();
        let place = Place { guarded: Some(state.join("streams")), streams: vec![stream] };
        assert_eq!(locate(&RealDisk, &state).unwrap(), place);
        assert_eq!(locate(&RealDisk, &state.join("streams")).unwrap(), place);
    }

    #[test]
    fn a_stream_may_be_called_streams() {
        let root = tempfile::tempdir().unwrap();
        let store = root.path().canonicalize().unwrap();
        let stream = store.join("streams/streams");
        std::fs::create_dir_all(&stream).unwrap();
        std::fs::write(stream.join("mark"), "").unwrap();
        let place = Place { guarded: Some(store.clone()), streams: vec![stream] };
        assert_eq!(locate(&RealDisk, &store).unwrap(), place);
        assert_eq!(locate(&RealDisk, &store.join("streams")).unwrap(), place);
    }

    #[test]
    fn a_directory_without_streams_is_refused_with_what_to_give() {
        let root = tempfile::tempdir().unwrap();
        assert!(locate(&RealDisk, root.path()).unwrap_err().contains("-sd"));
        assert!(locate(&RealDisk, &root.path().join("nowhere")).unwrap_err().contains("nowhere"));
    }
}
