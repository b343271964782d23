//! `ostler demo`: everything Ostler promises, in ten seconds, with nothing but this binary. It believes only what it
//! observes on the bus and in the process table; a step that is not observed in time fails the demo.
//!
//! A fresh directory, a real daemon on a free port, three real processes. Whatever happens, nothing of it stays.

pub(crate) mod agents;
mod narrator;
mod stage;
mod steps;
mod witness;

use tokio::signal::unix::{SignalKind, signal};

use crate::exit::{Exit, Failure, Outcome};
use crate::screen::Screen;
use narrator::Narrator;
use stage::Stage;

/// What becomes of the demo's directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Afterwards {
    Remove,
    Keep,
}

/// Plays the demo to its end, or to the first step that is not observed.
pub(crate) async fn play(screen: Screen, afterwards: Afterwards) -> Outcome {
    let mut stage = Stage::new()?;
    let mut narrator = Narrator::new(screen);
    narrator.open(&format!(
        "A daemon, three agents, a crash and a kill -9. All of it lives in {}, nothing of yours is touched.",
        stage.dir().display()
    ))?;
    let played = tokio::select! {
        played = steps::play(&mut stage, &mut narrator) => played,
        () = interrupted() => Err(Failure::new(Exit::Failed, "the demo was interrupted")),
    };
    if let Err(failure) = &played {
        stage.clear();
        narrator.failed(failure)?;
    }
    let kept = stage.close(afterwards == Afterwards::Keep)?;
    // The files a hint could name are gone.
    played.map_err(|failure| failure.hint("look into its directory with: ostler demo --keep"))?;
    narrator.close()?;
    if let Some(dir) = kept {
        screen.note(format!("kept: {}", dir.display()));
    }
    Ok(())
}

/// Waits for whatever would end us: what we started lives in sessions of its own and would stay behind.
async fn interrupted() {
    let next = |kind| async move {
        match signal(kind) {
            Ok(mut signal) => drop(signal.recv().await),
            // Without a handler the signal ends us as it always did.
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        () = next(SignalKind::interrupt()) => (),
        () = next(SignalKind::terminate()) => (),
        () = next(SignalKind::hangup()) => (),
    }
}
