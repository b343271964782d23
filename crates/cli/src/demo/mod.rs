//! `ostler demo`: everything Ostler promises, in ten seconds, with nothing but this binary. It believes only what it
//! observes on the bus and in the process table; a step that is not observed in time fails the demo.
//!
//! A fresh directory, a real daemon on a free port, three real processes. Whatever happens, nothing of it stays.

pub(crate) mod agents;
mod narrator;
mod stage;
mod steps;
mod witness;

use crate::exit::{Exit, Failure, Outcome};
use crate::screen::{Screen, is_reader_gone};
use crate::signals::Signals;
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
    // What the demo starts lives in sessions of its own: whatever ends us must end that first.
    let mut signals = Signals::listen()?;
    let mut stage = Stage::new()?;
    let mut narrator = Narrator::new(screen);
    narrator.open(&format!(
        "A daemon, three agents, a crash and a kill -9. All of it lives in {}, nothing of yours is touched.",
        stage.dir().display()
    ))?;
    let played = tokio::select! {
        played = steps::play(&mut stage, &mut narrator) => played,
        () = signals.next() => Err(Failure::new(Exit::Failed, "the demo was interrupted")),
    };
    // Elsewhere that is no fault; here it means that the steps were not observed.
    let played = played.map_err(|failure| match is_reader_gone(&failure) {
        true => Failure::new(Exit::Failed, "nobody watches the demo"),
        false => failure,
    });
    if let Err(failure) = &played {
        stage.clear();
        // Where it cannot be shown, the failure itself still is.
        let _ = narrator.failed(failure);
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
