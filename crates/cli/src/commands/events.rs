//! `ostler events`.

use std::time::Duration;

use jiff::tz::TimeZone;
use ostler_wire::{AgentId, DashboardState, EventRecord, EventsReply, EventsRequest, Subject, Timestamp};

use crate::connect::{Places, Session};
use crate::exit::Outcome;
use crate::lasting::Heard;
use crate::render::events::line;
use crate::screen::Screen;
use crate::when::{Since, parse_since};

/// Events asked for in one page.
const PAGE_EVENTS: u32 = 1000;

/// Pause between two looks for a daemon that is away.
const AWAY_LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// Events shown when nothing says from when on.
const NEWEST_EVENTS: u32 = 50;

#[derive(Debug, clap::Args)]
#[command(after_help = "With --json each event is one line.")]
pub(crate) struct Args {
    /// Go on with what happens
    #[arg(short, long)]
    follow: bool,
    /// Only what came since then: 10m (ago), or 2026-11-20T21:00:00Z; without it, the newest 50
    #[arg(long, value_name = "TIME", value_parser = parse_since)]
    since: Option<Since>,
    /// Only what is about this agent
    #[arg(long, value_name = "NAME")]
    agent: Option<AgentId>,
}

pub(crate) async fn run(args: &Args, places: &Places, screen: Screen) -> Outcome {
    let mut session = Session::open(places).await?;
    if args.follow {
        session = session.kept(screen);
    }
    // Listening comes first, so that nothing falls between the record and what comes.
    let live =
        if args.follow { Some(session.listen(Subject::DashboardState.to_string()).await?) } else { None };
    let mut reader =
        Reader { session: &session, agent: args.agent.clone(), last: 0, screen, zone: TimeZone::system() };
    match args.since {
        Some(since) => {
            let since = Some(since.resolve(Timestamp::now()));
            reader
                .read(EventsRequest { since, limit: Some(PAGE_EVENTS), ..EventsRequest::default() })
                .await?;
        }
        None => reader.newest().await?,
    }
    let Some(mut live) = live else { return Ok(()) };
    while let Some(heard) = live.next().await? {
        match heard {
            Heard::Rejoined => reader.catch_up().await?,
            Heard::Message(message) => {
                if let Ok(state) = message.json::<DashboardState>() {
                    reader.arrives(state).await?;
                }
            }
        }
    }
    Ok(())
}

/// Prints every event once, in order.
struct Reader<'a> {
    session: &'a Session,
    agent: Option<AgentId>,
    /// The number of the last event seen, of any agent.
    last: u64,
    screen: Screen,
    zone: TimeZone,
}

impl Reader<'_> {
    /// The newest page only.
    async fn newest(&mut self) -> Outcome {
        let limit = Some(NEWEST_EVENTS);
        let request = EventsRequest { limit, agent_id: self.agent.clone(), ..EventsRequest::default() };
        let page = self.page(&request).await?;
        page.events.iter().try_for_each(|event| self.take(event))
    }

    /// Page by page to the end.
    async fn read(&mut self, mut request: EventsRequest) -> Outcome {
        request.agent_id = self.agent.clone();
        loop {
            let page = self.page(&request).await?;
            page.events.iter().try_for_each(|event| self.take(event))?;
            if !page.more || page.events.is_empty() {
                return Ok(());
            }
            request.after = Some(self.last);
        }
    }

    /// Reads what was missed, once there is a daemon to tell it: its bus is there a moment before it answers.
    async fn catch_up(&mut self) -> Outcome {
        loop {
            let (after, limit) = (Some(self.last), Some(PAGE_EVENTS));
            match self.read(EventsRequest { after, limit, ..EventsRequest::default() }).await {
                Err(failure) if failure.is_daemon_away() => tokio::time::sleep(AWAY_LOOK_INTERVAL).await,
                done => return done,
            }
        }
    }

    async fn page(&self, request: &EventsRequest) -> Outcome<EventsReply> {
        Ok(self.session.request(&Subject::NodeEvents(self.session.node.clone()), request).await?)
    }

    async fn arrives(&mut self, state: DashboardState) -> Outcome {
        let (DashboardState::Snapshot { node, .. } | DashboardState::Delta { node, .. }) = &state;
        if *node != self.session.node {
            // Another daemon on the same bus; its numbers are not ours.
            return Ok(());
        }
        match state {
            // A daemon that was started again tells where it stands; its record has what was missed.
            DashboardState::Snapshot { seq, .. } if seq > self.last => self.catch_up().await,
            DashboardState::Delta { seq, event, .. } if seq > self.last => {
                // The record comes before the announcement, so what is missing can be read already.
                if seq > self.last + 1 {
                    self.catch_up().await?;
                }
                if self.agent.is_some() && self.agent != event.agent_id {
                    self.last = self.last.max(seq);
                    return Ok(());
                }
                self.take(&event)
            }
            _ => Ok(()),
        }
    }

    fn take(&mut self, event: &EventRecord) -> Outcome {
        if event.seq <= self.last {
            return Ok(());
        }
        self.last = event.seq;
        if self.screen.is_json() {
            self.screen.json(event)
        } else {
            self.screen.line(line(event, &self.zone))
        }
    }
}
