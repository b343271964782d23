//! Runs one program under a guard, as a host does: its output and its states are printed, requests are read from
//! stdin, one word a line (`stop`, `kill`, `pause`, `resume`, `restart`).
//!
//! ```text
//! cargo run -p ostler-supervise --example guarded -- MARKER CGROUP-DIR|none PROGRAM [ARGUMENT...]
//! ```

use std::io::{BufRead, Error, Result};

use ostler_supervise::exit::Exit;
use ostler_supervise::guard::{self, GuardHandle, GuardOptions};
use ostler_supervise::spec::{CommandSpec, UnitSpec};
use ostler_supervise::unit::{self, Events, Handle, UnitEvent};
use tokio::sync::mpsc;

fn main() -> Result<()> {
    let mut args = std::env::args_os().skip(1);
    let mut next = |what: &str| args.next().ok_or_else(|| Error::other(format!("missing {what}")));
    let marker = next("MARKER")?;
    let cgroup = next("CGROUP-DIR")?;
    let program = next("PROGRAM")?;
    let cgroup = (cgroup != "none").then(|| cgroup.into());

    // Before anything else: the guard must be made while there is one thread.
    let guard = guard::enter(GuardOptions { cgroup: cgroup.clone() })?;
    println!("guard {} host {}", guard.identity().pid, std::process::id());

    let dir = std::env::current_dir()?;
    let command = CommandSpec {
        program: program.into(),
        args: args.collect(),
        dir,
        env: std::env::vars_os().collect(),
    };
    let mut spec = UnitSpec::new(command, marker.to_string_lossy());
    spec.cgroup = cgroup;
    spec.reaper = Some(guard.identity());
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(supervise(spec, guard))
}

async fn supervise(spec: UnitSpec, guard: GuardHandle) -> Result<()> {
    let (handle, mut events) = unit::start(spec);
    let (line_tx, mut line_rx) = mpsc::channel(1);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if line_tx.blocking_send(line).is_err() {
                return;
            }
        }
    });
    loop {
        tokio::select! {
            event = events.recv() => match event {
                Some(event) => print(&event),
                None => break,
            },
            Some(line) = line_rx.recv() => request(&handle, &line).await,
            // Nobody would clean up after us.
            () = guard.lost() => {
                println!("guard lost");
                let _ = handle.kill().await;
                drain(&mut events).await;
                break;
            }
        }
    }
    std::process::exit(handle.snapshot().exit.map_or(1, Exit::shell_code));
}

async fn request(handle: &Handle, line: &str) {
    let answer = match line {
        "stop" => handle.stop(false).await,
        "kill" => handle.kill().await,
        "pause" => handle.pause().await,
        "resume" => handle.resume().await,
        "restart" => handle.restart().await,
        other => return println!("unknown request {other}"),
    };
    match answer {
        Ok(snapshot) => println!("{line} granted, {}", snapshot.state),
        Err(refusal) => println!("{refusal}"),
    }
}

async fn drain(events: &mut Events) {
    while let Some(event) = events.recv().await {
        print(&event);
    }
}

fn print(event: &UnitEvent) {
    match event {
        UnitEvent::Changed(now) => println!("state {} pid {}", now.state, now.pid.unwrap_or_default()),
        UnitEvent::Output { line, .. } => println!("| {}", String::from_utf8_lossy(line)),
        UnitEvent::Exited { exit, .. } => println!("ended: {exit}"),
        UnitEvent::Note(text) => println!("note: {text}"),
    }
}
