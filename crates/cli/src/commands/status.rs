//! `ostler status [NAME]`.

use ostler_wire::{AgentId, JsonMap, NodeInfo, Subject, Timestamp};

use crate::connect::{Places, Session};
use crate::exit::Outcome;
use crate::render::agents::{node_page, page};
use crate::screen::Screen;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The agent; without it, the daemon
    name: Option<AgentId>,
}

pub(crate) async fn run(args: &Args, places: &Places, screen: Screen) -> Outcome {
    let session = Session::open(places).await?;
    if let Some(name) = &args.name {
        let agent = session.agent(name).await?;
        return if screen.is_json() {
            screen.json(&agent)
        } else {
            screen.text(&page(&agent, Timestamp::now()))
        };
    }
    let subject = Subject::NodeInfo(session.node.clone());
    let node: NodeInfo = session.request(&subject, &JsonMap::new()).await?;
    if screen.is_json() { screen.json(&node) } else { screen.text(&node_page(&node, Timestamp::now())) }
}
