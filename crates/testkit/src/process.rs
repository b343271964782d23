//! The operating system's processes as `/proc` tells them: who lives, who belongs to a daemon under test.

use std::fs;
use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};

/// One process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// Its parent's id.
    pub parent: u32,
    /// The letter `ps` shows: `Z` is a zombie, `T` is stopped.
    pub state: char,
    /// Clock ticks between boot and its start; with the id, its identity.
    pub start_time: u64,
    /// Its command line, arguments parted by spaces.
    pub command: String,
}

impl Process {
    /// Reads one process; a zombie counts as one.
    pub fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name stands in brackets and may contain anything, brackets too.
        let fields: Vec<&str> = stat.get(stat.rfind(')')? + 2..)?.split_whitespace().collect();
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        Some(Self {
            pid,
            parent: fields.get(1)?.parse().ok()?,
            state: fields.first()?.chars().next()?,
            start_time: fields.get(19)?.parse().ok()?,
            command: String::from_utf8_lossy(&command).replace('\0', " ").trim().to_owned(),
        })
    }

    /// True for one that has ended and was not reaped.
    pub fn is_zombie(&self) -> bool {
        self.state == 'Z'
    }

    /// True while this very process runs; a zombie does not.
    pub fn is_alive(&self) -> bool {
        Self::of(self.pid).is_some_and(|now| now.start_time == self.start_time && !now.is_zombie())
    }

    /// The process's environment or command line mentions `text`.
    fn mentions(&self, text: &str) -> bool {
        let environment = fs::read(format!("/proc/{}/environ", self.pid)).unwrap_or_default();
        self.command.contains(text) || String::from_utf8_lossy(&environment).contains(text)
    }
}

/// Every process there is.
pub fn all() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|entry| Process::of(entry.file_name().to_str()?.parse().ok()?)).collect()
}

/// True while a process of that id runs; a zombie does not.
pub fn is_alive(pid: u32) -> bool {
    Process::of(pid).is_some_and(|process| !process.is_zombie())
}

/// The processes that belong to the daemon whose state is in `state_dir`: itself, hosts, guards and agents, whatever
/// became of their parents. They carry the directory in their command line or environment. Zombies carry neither.
pub fn belonging_to(state_dir: &Path) -> Vec<Process> {
    let needle = state_dir.to_str().expect("temporary directories have UTF-8 names");
    let own = std::process::id();
    all().into_iter().filter(|process| process.pid != own && process.mentions(needle)).collect()
}

/// The processes below `pid`, children first; zombies included.
pub fn descendants(pid: u32) -> Vec<Process> {
    let all = all();
    let mut found: Vec<Process> = Vec::new();
    let mut parents = vec![pid];
    while let Some(parent) = parents.pop() {
        for child in all.iter().filter(|process| process.parent == parent) {
            parents.push(child.pid);
            found.push(child.clone());
        }
    }
    found
}

/// Sends a signal; a process that is gone already is left in peace.
pub fn signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process id is positive");
    // The only likely fault is that it is gone, which is what the caller finds out next anyhow.
    let _ = kill_process(pid, signal);
}

/// SIGKILL.
pub fn kill9(pid: u32) {
    signal(pid, Signal::KILL);
}
