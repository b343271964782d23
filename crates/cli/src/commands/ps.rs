//! `ostler ps`.

use ostler_wire::{AgentState, Timestamp};

use crate::connect::{Places, Session};
use crate::exit::Outcome;
use crate::render::agents::{Width, table};
use crate::screen::{Detail, Screen};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Also list agents that were stopped or are done
    #[arg(short, long)]
    all: bool,
}

pub(crate) async fn run(args: &Args, places: &Places, screen: Screen) -> Outcome {
    let session = Session::open(places).await?;
    let mut list = session.agents().await?;
    let known = list.agents.len();
    list.agents.retain(|agent| args.all || agent.state != AgentState::Terminated);
    if screen.is_json() {
        return screen.json(&list);
    }
    let hidden = known - list.agents.len();
    if !list.agents.is_empty() {
        let width = if screen.detail == Detail::Verbose { Width::Full } else { Width::Cut };
        screen.text(&table(&list.agents, width, Timestamp::now()))?;
    }
    match (list.agents.is_empty(), hidden) {
        (true, 0) => screen.note("no agents; start one with: ostler spawn NAME -- COMMAND"),
        (_, 0) => {}
        (_, hidden) => screen.note(format!("{hidden} ended, not listed; see all with: ostler ps -a")),
    }
    Ok(())
}
