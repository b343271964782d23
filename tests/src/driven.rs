//! A real process behind an adapter, without host, daemon or bus: the shortest way to see what the CLI does.
//!
//! With `OSTLER_RECORD=<file>` every step is appended to that file; such a record is what `crates/agents/testdata`
//! replays.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ostler_agents::{Adapter, Effect, LaunchContext, Stream};
use ostler_wire::{AgentEvent, SpawnRequest};
use serde_json::{Value, json};

/// How long anything may take before the test gives up.
const PATIENCE: Duration = Duration::from_secs(60);

/// Lines read ahead of the test; a full channel holds the reader, and with it the process.
const LINES_AHEAD: usize = 1024;

/// One process, and everything its adapter asked for.
pub struct Driven<'a> {
    adapter: &'a mut dyn Adapter,
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<(Stream, Vec<u8>)>,
    readers: Vec<JoinHandle<()>>,
    record: Option<File>,
    /// All effects so far, in order.
    pub effects: Vec<Effect>,
}

impl<'a> Driven<'a> {
    /// Starts the process of `spawn` in `dir`, going on with `session`.
    ///
    /// # Panics
    ///
    /// When it cannot be started.
    pub fn start(
        adapter: &'a mut dyn Adapter,
        spawn: &SpawnRequest,
        session: Option<&str>,
        dir: &Path,
    ) -> Self {
        let launch =
            adapter.launch(&LaunchContext { spawn, session }).expect("the request is a command line");
        let mut child = Command::new(&launch.program)
            .args(&launch.args)
            .env_clear()
            .envs(&spawn.env)
            .envs(launch.env)
            .current_dir(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let (sender, lines) = sync_channel(LINES_AHEAD);
        let readers = vec![
            reader(Stream::Stdout, child.stdout.take().expect("stdout is a pipe"), sender.clone()),
            reader(Stream::Stderr, child.stderr.take().expect("stderr is a pipe"), sender),
        ];
        let record = std::env::var_os("OSTLER_RECORD").map(|path| {
            File::options().create(true).append(true).open(path).expect("the record can be written")
        });
        let stdin = child.stdin.take();
        let mut driven = Self { adapter, child, stdin, lines, readers, record, effects: Vec::new() };
        driven.recorded(&json!({"do": "start"}));
        let effects = driven.adapter.started();
        driven.perform(effects);
        driven
    }

    /// Gives one prompt.
    ///
    /// # Panics
    ///
    /// When the adapter refuses it.
    pub fn turn(&mut self, input_id: &str, text: &str) {
        self.recorded(&json!({"do": "turn", "input_id": input_id, "text": text}));
        let bytes = self.adapter.turn(input_id, text).expect("the adapter takes the prompt");
        self.write(&bytes);
    }

    /// Breaks off the running turn.
    ///
    /// # Panics
    ///
    /// When the adapter cannot.
    pub fn interrupt(&mut self) {
        self.recorded(&json!({"do": "interrupt"}));
        let bytes = self.adapter.interrupt().expect("the adapter can interrupt");
        self.write(&bytes);
    }

    /// Performs effects up to the first one that `wanted` accepts, and returns it.
    ///
    /// # Panics
    ///
    /// When it does not come in time; the text has the last effects.
    pub fn until(&mut self, wanted: impl Fn(&Effect) -> bool) -> Effect {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok((stream, line)) => {
                    let from = self.effects.len();
                    self.read(stream, &line);
                    if let Some(effect) = self.effects[from..].iter().find(|effect| wanted(effect)) {
                        return effect.clone();
                    }
                }
                Err(error) => {
                    let seen = &self.effects[self.effects.len().saturating_sub(20)..];
                    let how = match error {
                        RecvTimeoutError::Timeout => "nothing more came in time",
                        RecvTimeoutError::Disconnected => "the process ended",
                    };
                    panic!("{how}; the last effects: {seen:#?}");
                }
            }
        }
    }

    /// Runs a turn to its end and returns its `Result` event.
    pub fn whole_turn(&mut self, input_id: &str, text: &str) -> AgentEvent {
        self.turn(input_id, text);
        let ended = |effect: &Effect| matches!(effect, Effect::TurnEnded { input_id: Some(id), .. } if id == input_id);
        self.until(ended);
        self.events()
            .rev()
            .find(|event| matches!(event, AgentEvent::Result { .. }))
            .expect("a turn has a result")
            .clone()
    }

    /// The events so far.
    pub fn events(&self) -> impl DoubleEndedIterator<Item = &AgentEvent> {
        self.effects.iter().filter_map(|effect| match effect {
            Effect::Event { event, .. } => Some(event),
            _ => None,
        })
    }

    /// The session told last.
    ///
    /// # Panics
    ///
    /// When none was told.
    pub fn session(&self) -> String {
        let session = |effect: &Effect| match effect {
            Effect::Session(session) => Some(session.clone()),
            _ => None,
        };
        self.effects.iter().rev().find_map(session).expect("the agent told its session")
    }

    /// Closes stdin and reads everything up to the end of the process.
    pub fn close(mut self) -> (ExitStatus, Vec<Effect>) {
        self.recorded(&json!({"do": "close"}));
        self.stdin = None;
        self.end()
    }

    /// Kills the process with SIGKILL and reads what it left.
    ///
    /// # Panics
    ///
    /// When it is gone already.
    pub fn kill(mut self) -> (ExitStatus, Vec<Effect>) {
        self.child.kill().expect("the process can be killed");
        self.end()
    }

    fn end(mut self) -> (ExitStatus, Vec<Effect>) {
        while let Ok((stream, line)) = self.lines.recv_timeout(PATIENCE) {
            self.read(stream, &line);
        }
        for reader in std::mem::take(&mut self.readers) {
            reader.join().expect("the reader does not panic");
        }
        let status = self.child.wait().expect("the process is ours");
        self.recorded(&json!({"do": "exit"}));
        let effects = self.adapter.exited();
        self.perform(effects);
        (status, std::mem::take(&mut self.effects))
    }

    fn read(&mut self, stream: Stream, line: &[u8]) {
        let name = if stream == Stream::Stdout { "out" } else { "err" };
        self.recorded(&json!({name: String::from_utf8_lossy(line)}));
        let effects = self.adapter.line(stream, line, false);
        self.perform(effects);
    }

    fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            if let Effect::Write(bytes) = &effect {
                self.write(&bytes.clone());
            }
            self.effects.push(effect);
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        self.recorded(&json!({"in": String::from_utf8_lossy(bytes.trim_ascii_end())}));
        if let Some(stdin) = &mut self.stdin {
            // A process that is ending does not read any more; the test sees its end.
            let _ = stdin.write_all(bytes);
        }
    }

    fn recorded(&mut self, step: &Value) {
        if let Some(file) = &mut self.record {
            writeln!(file, "{step}").expect("the record can be written");
        }
    }
}

impl Drop for Driven<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn reader(
    stream: Stream,
    pipe: impl Read + Send + 'static,
    lines: SyncSender<(Stream, Vec<u8>)>,
) -> JoinHandle<()> {
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).split(b'\n') {
            let Ok(line) = line else { return };
            if lines.send((stream, line)).is_err() {
                return;
            }
        }
    })
}
