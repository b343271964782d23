//! The operator's view of a daemon under test: typed requests with the patience and the panics tests want.

use std::collections::BTreeMap;
use std::time::Duration;

use ostler_client::{Client, Error};
use ostler_wire::{
    AgentEvent, AgentId, AgentState, AgentSummary, ControlReply, ErrorCode, EventRecord, EventsReply,
    EventsRequest, InputMessage, InputReply, JsonMap, ListReply, LogEntry, LogsReply, LogsRequest, NodeId,
    OutputMessage, OutputStream, RunId, SpawnReply, SpawnRequest, StatusMessage, StopRequest, Subject,
};

use crate::daemon::fake_agent;
use crate::wait::{PATIENCE, wait_for};

/// A connection with the operator's credential.
#[derive(Debug, Clone)]
pub struct Bus {
    /// The connection itself.
    pub client: Client,
    /// The daemon's node.
    pub node: NodeId,
}

/// An agent's id from text.
///
/// # Panics
///
/// When the text breaks the rule for ids.
pub(crate) fn id(name: &str) -> AgentId {
    AgentId::parse(name).expect("the test's agents have proper names")
}

/// The definition of an agent that obeys `steps`; `fake-agent --help` lists them. It is stopped with one second of
/// grace and restarted after failures.
pub fn script<const N: usize>(steps: [&str; N]) -> SpawnRequest {
    let mut command = vec![fake_agent().display().to_string()];
    command.extend(steps.map(str::to_owned));
    SpawnRequest { command, stop_grace_ms: Some(1000), ..SpawnRequest::default() }
}

/// The text of the lines an agent printed to standard output, in the order of the log.
pub fn lines(entries: &[LogEntry]) -> Vec<String> {
    let stdout = entries.iter().filter(|entry| entry.output.stream == OutputStream::Stdout);
    stdout.filter_map(|entry| entry.output.data.clone()).collect()
}

/// Checks that every run's numbers in a log are 1, 2, 3, … in this order, each once, and none given up.
///
/// # Panics
///
/// When they are not.
pub fn assert_gapless(entries: &[LogEntry]) {
    let told = entries.iter().find(|entry| matches!(entry.output.event, Some(AgentEvent::Dropped { .. })));
    assert!(told.is_none(), "output was given up: {told:?}");
    assert_every_gap_is_told(entries);
}

/// As [`assert_gapless`], but numbers may be missing where an event says so: a host that is killed takes the output
/// with it that nobody had acknowledged.
///
/// # Panics
///
/// When numbers are missing without a word, double or out of order.
pub fn assert_every_gap_is_told(entries: &[LogEntry]) {
    let mut last: BTreeMap<RunId, u64> = BTreeMap::new();
    let mut position = 0;
    for entry in entries {
        assert!(entry.position > position, "positions grow: {position} then {}", entry.position);
        position = entry.position;
        let output = &entry.output;
        let last = last.entry(output.run_id).or_default();
        let first = match output.event {
            Some(AgentEvent::Dropped { from_seq, to_seq, .. }) if to_seq == output.seq => from_seq,
            _ => output.seq,
        };
        assert_eq!(first, *last + 1, "run {} of {}", output.run_id, output.agent_id);
        *last = output.seq;
    }
}

impl Bus {
    /// Starts an agent and returns the answer.
    ///
    /// # Panics
    ///
    /// When it is refused; so do all of these.
    pub async fn spawn(&self, name: &str, request: SpawnRequest) -> SpawnReply {
        self.try_spawn(name, &request).await.unwrap_or_else(|error| panic!("spawn {name}: {error}"))
    }

    /// Starts an agent, or returns the refusal.
    ///
    /// # Errors
    ///
    /// What the daemon answered.
    pub async fn try_spawn(&self, name: &str, request: &SpawnRequest) -> Result<SpawnReply, Error> {
        self.client.request(&Subject::spawn(&id(name)), request).await
    }

    /// Starts an agent and waits until its process runs.
    pub async fn spawn_active(&self, name: &str, request: SpawnRequest) -> AgentSummary {
        self.spawn(name, request).await;
        self.wait_for_state(name, AgentState::Active).await
    }

    /// Sends an empty request to one of the control subjects.
    ///
    /// # Errors
    ///
    /// The refusal.
    pub async fn control(&self, subject: Subject) -> Result<ControlReply, Error> {
        self.client.request(&subject, &JsonMap::new()).await
    }

    /// Freezes an agent.
    pub async fn pause(&self, name: &str) -> ControlReply {
        self.control(Subject::pause(&id(name))).await.unwrap_or_else(|error| panic!("pause {name}: {error}"))
    }

    /// Lets an agent go on.
    pub async fn resume(&self, name: &str) -> ControlReply {
        self.control(Subject::resume(&id(name)))
            .await
            .unwrap_or_else(|error| panic!("resume {name}: {error}"))
    }

    /// Stops an agent and waits until it has ended.
    pub async fn stop(&self, name: &str) -> AgentSummary {
        let request = StopRequest::default();
        let asked: Result<ControlReply, _> = self.client.request(&Subject::stop(&id(name)), &request).await;
        asked.unwrap_or_else(|error| panic!("stop {name}: {error}"));
        self.wait_for_state(name, AgentState::Terminated).await
    }

    /// Gives an agent one turn of input.
    pub async fn send(&self, name: &str, text: &str) -> InputReply {
        let asked = self.client.request(&Subject::input(&id(name)), &InputMessage::prompt(text)).await;
        asked.unwrap_or_else(|error| panic!("input for {name}: {error}"))
    }

    /// Asks an agent's host how it is.
    ///
    /// # Errors
    ///
    /// The refusal, or that nobody answers.
    pub async fn status(&self, name: &str) -> Result<StatusMessage, Error> {
        self.client.request(&Subject::status(&id(name)), &JsonMap::new()).await
    }

    /// Every agent the daemon knows.
    pub async fn agents(&self) -> Vec<AgentSummary> {
        self.try_agents().await.unwrap_or_else(|error| panic!("list agents: {error}"))
    }

    /// Every agent the daemon knows, or why it does not say.
    ///
    /// # Errors
    ///
    /// What the client says.
    pub async fn try_agents(&self) -> Result<Vec<AgentSummary>, Error> {
        let subject = Subject::NodeAgents(self.node.clone());
        let patience = Duration::from_secs(5);
        self.client
            .request_within::<ListReply>(&subject, &JsonMap::new(), patience)
            .await
            .map(|list| list.agents)
    }

    /// What the daemon knows about one agent.
    pub async fn agent(&self, name: &str) -> Option<AgentSummary> {
        self.agents().await.into_iter().find(|agent| agent.agent_id == id(name))
    }

    /// Waits until what the daemon knows about an agent passes `test`; faults of the bus are waited out.
    pub async fn wait_for_agent(
        &self,
        name: &str,
        what: &str,
        test: impl Fn(&AgentSummary) -> bool,
    ) -> AgentSummary {
        let last = std::cell::RefCell::new(None);
        let look = wait_for(what, Duration::from_secs(3600), async || {
            let agents = self.try_agents().await.ok()?;
            let agent = agents.into_iter().find(|agent| agent.agent_id == id(name));
            last.replace(agent.clone());
            agent.filter(|agent| test(agent))
        });
        match tokio::time::timeout(PATIENCE, look).await {
            Ok(found) => found,
            Err(_) => panic!("agent {name} not within {PATIENCE:?}: {what}; it is {:?}", last.borrow()),
        }
    }

    /// Waits until the daemon knows an agent to be in `state`.
    pub async fn wait_for_state(&self, name: &str, state: AgentState) -> AgentSummary {
        self.wait_for_agent(name, state.as_str(), |agent| agent.state == state).await
    }

    /// The whole recorded log of an agent, page by page.
    pub async fn log(&self, name: &str) -> Vec<LogEntry> {
        let mut entries: Vec<LogEntry> = Vec::new();
        loop {
            let page = self.log_after(name, entries.last().map(|entry| entry.position)).await;
            entries.extend(page.entries);
            if !page.more {
                return entries;
            }
        }
    }

    async fn log_after(&self, name: &str, after: Option<u64>) -> LogsReply {
        let request = LogsRequest { after, limit: Some(1000), ..LogsRequest::default() };
        wait_for("a turn at the log", PATIENCE, async || {
            match self.client.request(&Subject::logs(&id(name)), &request).await {
                // So many read at once that the daemon asks for another try.
                Err(error) if error.code() == Some(ErrorCode::QueueFull) => None,
                asked => Some(asked.unwrap_or_else(|error| panic!("logs of {name}: {error}"))),
            }
        })
        .await
    }

    /// Waits until `line` stands in an agent's log as a whole line, and returns its entry.
    pub async fn wait_for_line(&self, name: &str, line: &str) -> OutputMessage {
        let mut after = None;
        let what = format!("line {line:?} in the log of {name}");
        let look = async {
            loop {
                let page = self.log_after(name, after).await;
                after = page.entries.last().map(|entry| entry.position).or(after);
                let is_it = |entry: &LogEntry| entry.output.data.as_deref() == Some(line);
                if let Some(entry) = page.entries.into_iter().find(is_it) {
                    return entry.output;
                }
                if !page.more {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
        };
        match tokio::time::timeout(PATIENCE, look).await {
            Ok(found) => found,
            Err(_) => panic!("not within {PATIENCE:?}: {what}; it ends:\n{}", self.log_end(name).await),
        }
    }

    async fn log_end(&self, name: &str) -> String {
        let log = self.log(name).await;
        let text: Vec<String> = log.iter().map(|entry| format!("{:?}", entry.output)).collect();
        text[text.len().saturating_sub(20)..].join("\n")
    }

    /// Every recorded event, page by page.
    pub async fn events(&self) -> Vec<EventRecord> {
        let mut events: Vec<EventRecord> = Vec::new();
        loop {
            let after = Some(events.last().map_or(0, |event| event.seq));
            let request = EventsRequest { after, limit: Some(1000), ..EventsRequest::default() };
            let page: EventsReply = self
                .client
                .request(&Subject::NodeEvents(self.node.clone()), &request)
                .await
                .unwrap_or_else(|error| panic!("events: {error}"));
            events.extend(page.events);
            if !page.more {
                return events;
            }
        }
    }
}
