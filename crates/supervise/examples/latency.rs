//! Measures, on this machine, what supervision adds: start, end and whole-tree end. Prints medians of 50.
//!
//! ```text
//! cargo run --release -p ostler-supervise --example latency
//! ```

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ostler_supervise::guard::{self, GuardOptions};
use ostler_supervise::platform::{self, Identity};
use ostler_supervise::restart::RestartPolicy;
use ostler_supervise::spec::{CommandSpec, UnitSpec};
use ostler_supervise::state::StateName;
use ostler_supervise::unit::{self, Events, UnitEvent};

const ROUNDS: usize = 50;

fn main() -> std::io::Result<()> {
    let cgroup = platform::cgroup_parent().map(|dir| dir.join(format!("latency-{}", std::process::id())));
    let guard = guard::enter(GuardOptions { cgroup: cgroup.clone() })?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    row("plain spawn", (0..ROUNDS).map(|_| plain_spawn()).collect());
    for cgroup in [None, cgroup] {
        println!("{}", if cgroup.is_some() { "with a cgroup" } else { "without a cgroup" });
        let (mut starts, mut exits, mut kills) = (vec![], vec![], vec![]);
        for _ in 0..ROUNDS {
            let (start, exit) = runtime.block_on(start_and_exit(spec(guard.identity(), cgroup.clone())));
            starts.push(start);
            exits.push(exit);
            kills.push(runtime.block_on(kill(spec(guard.identity(), cgroup.clone()))));
        }
        row("start to active", starts);
        row("end of the process to Exited", exits);
        row("kill to terminated", kills);
    }
    Ok(())
}

fn spec(guard: Identity, cgroup: Option<std::path::PathBuf>) -> UnitSpec {
    let command = CommandSpec {
        program: "/bin/cat".into(),
        args: vec![],
        dir: "/".into(),
        env: vec![("PATH".into(), "/usr/bin:/bin".into())],
    };
    let mut spec = UnitSpec::new(command, "latency");
    spec.restart = RestartPolicy::Never;
    spec.reaper = Some(guard);
    spec.cgroup = cgroup;
    spec
}

fn plain_spawn() -> Duration {
    let began = Instant::now();
    let child = Command::new("/bin/cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let took = began.elapsed();
    if let Ok(mut child) = child {
        // Closing its stdin ends it.
        let _ = child.wait();
    }
    took
}

async fn start_and_exit(spec: UnitSpec) -> (Duration, Duration) {
    let began = Instant::now();
    let (handle, mut events) = unit::start(spec);
    let pid = active(&mut events).await;
    let start = began.elapsed();
    let _ = Command::new("kill").args(["-9", &pid.to_string()]).status();
    let ended = Instant::now();
    while let Some(event) = events.recv().await {
        if matches!(event, UnitEvent::Exited { .. }) {
            break;
        }
    }
    let exit = ended.elapsed();
    while events.recv().await.is_some() {}
    drop(handle);
    (start, exit)
}

async fn kill(spec: UnitSpec) -> Duration {
    let (handle, mut events) = unit::start(spec);
    active(&mut events).await;
    let began = Instant::now();
    let _ = handle.kill().await;
    while events.recv().await.is_some() {}
    began.elapsed()
}

async fn active(events: &mut Events) -> u32 {
    loop {
        match events.recv().await {
            Some(UnitEvent::Changed(now)) if now.state == StateName::Active => {
                return now.pid.unwrap_or_default();
            }
            Some(_) => {}
            None => return 0,
        }
    }
}

fn row(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |share: usize| times.get(times.len() * share / 100).copied().unwrap_or_default();
    println!("{what:<32} median {:>9.3?}  p90 {:>9.3?}", at(50), at(90));
}
