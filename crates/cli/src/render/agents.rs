//! Agents as a table, as a page and as one word.

use std::fmt::Write;

use comfy_table::{Attribute, Cell, CellAlignment, Color, Table, presets};
use jiff::Timestamp;
use ostler_wire::{AgentState, AgentSummary, AuditStatus, DesiredState, NodeInfo, StatusCause};

use super::{bytes, command_line, cut, duration, elapsed, single_line, style};

/// How wide the columns of free text may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Width {
    /// Longer command lines and messages make the table wrap in an ordinary terminal.
    Cut,
    /// As long as they are.
    Full,
}

impl Width {
    fn chars_max(self, cut: usize) -> usize {
        match self {
            Self::Cut => cut,
            Self::Full => usize::MAX,
        }
    }
}

/// The table of `ostler ps`.
pub(crate) fn table(agents: &[AgentSummary], width: Width, now: Timestamp) -> String {
    let mut table = Table::new();
    // Whether colours are wanted is decided in one place, where the text is printed.
    table.load_style(presets::NOTHING).enforce_styling();
    let headings = ["NAME", "KIND", "STATE", "DETAIL", "PID", "UPTIME", "RESTARTS", "MEMORY", "COMMAND"];
    table.set_header(headings);
    for agent in agents {
        let facts = agent.facts.filter(|_| agent.state.is_live());
        let running_since = agent.started_at.filter(|_| agent.pid.is_some());
        table.add_row([
            Cell::new(&agent.agent_id).add_attribute(Attribute::Bold),
            Cell::new(agent.kind),
            Cell::new(agent.state).fg(color(agent)),
            Cell::new(cut(&detail(agent), width.chars_max(36))),
            Cell::new(agent.pid.map(|pid| pid.to_string()).unwrap_or_default()),
            Cell::new(running_since.map(|start| elapsed(start, now)).unwrap_or_default()),
            Cell::new(agent.restarts),
            Cell::new(facts.map(|facts| bytes(facts.rss_bytes)).unwrap_or_default()),
            Cell::new(command_line(&agent.command, width.chars_max(40))),
        ]);
    }
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if matches!(headings[index], "PID" | "RESTARTS" | "MEMORY") {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let mut text = String::new();
    for line in table.lines() {
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// What is worth saying beside the state.
fn detail(agent: &AgentSummary) -> String {
    if agent.degraded {
        return "no heartbeat".to_owned();
    }
    match agent.state {
        AgentState::Active => activity(agent),
        AgentState::Paused | AgentState::Stopping => String::new(),
        AgentState::Terminated => agent.exit.map(|exit| exit.to_string()).unwrap_or_default(),
        AgentState::Starting | AgentState::Error => {
            agent.message.as_deref().map(single_line).unwrap_or_else(|| cause(agent.cause).to_owned())
        }
    }
}

/// The activity; empty where there is none or it only repeats the state.
fn activity(agent: &AgentSummary) -> String {
    let is_news = agent.state == AgentState::Active && agent.status != agent.state.as_str();
    if is_news { single_line(&agent.status) } else { String::new() }
}

fn cause(cause: StatusCause) -> &'static str {
    match cause {
        StatusCause::Normal => "",
        StatusCause::Requested => "as requested",
        StatusCause::Exited => "ended by itself",
        StatusCause::CrashLoop => "ends again and again",
        StatusCause::NotPermitted => "the bus denies its host what it needs",
        StatusCause::SpawnFailed => "could not be started",
        StatusCause::HostLost => "its host was lost",
        StatusCause::Unknown => "for a reason of a newer version",
    }
}

fn color(agent: &AgentSummary) -> Color {
    match agent.state {
        _ if agent.degraded => Color::Yellow,
        AgentState::Active => Color::Green,
        AgentState::Starting | AgentState::Stopping | AgentState::Paused => Color::Yellow,
        AgentState::Terminated => Color::Grey,
        AgentState::Error => Color::Red,
    }
}

/// The state in its colour, for a sentence.
pub(crate) fn state(state: AgentState) -> String {
    match state {
        AgentState::Active => style::good(state),
        AgentState::Starting | AgentState::Stopping | AgentState::Paused => style::warning(state),
        AgentState::Terminated => style::dim(state),
        AgentState::Error => style::error(state),
    }
}

/// The page of `ostler status NAME`.
pub(crate) fn page(agent: &AgentSummary, now: Timestamp) -> String {
    let mut page = Page::new(&agent.agent_id);
    page.row("state", state(agent.state));
    page.row("activity", activity(agent));
    page.row("why", cause(agent.cause));
    page.row("message", agent.message.as_deref().map(single_line).unwrap_or_default());
    page.row("wanted", if agent.desired == DesiredState::Running { "running" } else { "stopped" });
    page.row("kind", agent.kind);
    page.row("command", command_line(&agent.command, 400));
    page.row("directory", &agent.dir);
    page.row("restart", agent.restart.as_str());
    page.row("restarts", agent.restarts);
    page.optional("pid", agent.pid);
    page.optional("host pid", agent.host_pid);
    page.optional(
        "uptime",
        agent.started_at.filter(|_| agent.pid.is_some()).map(|start| elapsed(start, now)),
    );
    page.optional("last exit", agent.exit);
    if let Some(facts) = agent.facts.filter(|_| agent.state.is_live()) {
        page.row("processes", facts.processes);
        page.row("memory", bytes(facts.rss_bytes));
        page.row("processor", format!("{:.1} s", facts.cpu_ms as f64 / 1000.0));
    }
    let beat = agent.last_heartbeat.map(|beat| format!("{} ago", elapsed(beat, now)));
    page.optional("heartbeat", beat.map(|beat| if agent.degraded { style::warning(beat) } else { beat }));
    page.optional("usage", agent.usage.as_ref().map(super::output::usage));
    page.optional("session", agent.session_id.as_deref().map(single_line));
    page.optional("run", agent.run_id);
    page.row("node", &agent.node);
    page.text
}

/// The page of `ostler status`.
pub(crate) fn node_page(node: &NodeInfo, now: Timestamp) -> String {
    let mut page = Page::new(&node.node);
    page.row("version", &node.version);
    page.row("pid", node.pid);
    page.row("up for", duration(now.duration_since(node.started_at).as_secs().try_into().unwrap_or(0)));
    page.row("bus", &node.bus_url);
    page.row("state", &node.state_dir);
    page.row("agents", format!("{} known, {} live", node.agents, node.agents_live));
    page.optional("memory", (node.rss_bytes > 0).then(|| bytes(node.rss_bytes)));
    page.row(
        "audit",
        node.audit.as_ref().map_or_else(|| "none is kept".to_owned(), |audit| fares(audit, now)),
    );
    page.text
}

/// How the audit fares, in a line.
fn fares(audit: &AuditStatus, now: Timestamp) -> String {
    let entries = match audit.stored {
        1 => "1 entry stored".to_owned(),
        stored => format!("{stored} entries stored"),
    };
    let more = |count: u64, what: &str| if count > 0 { format!(", {count} {what}") } else { String::new() };
    let (waiting, lost) = (more(audit.waiting(), "waiting"), more(audit.lost, "lost"));
    let problem = audit.problem.as_deref().map(|problem| {
        let since =
            audit.problem_since.map(|since| format!(" for {}", elapsed(since, now))).unwrap_or_default();
        format!("{}: {}", style::error(format!("; not stored{since}")), single_line(problem))
    });
    format!("{entries}{waiting}{}{}", style::error(lost), problem.unwrap_or_default())
}

/// Labels and values below a headline.
struct Page {
    text: String,
}

impl Page {
    fn new(title: impl std::fmt::Display) -> Self {
        Self { text: format!("{}\n", style::strong(title)) }
    }

    /// Leaves an empty value out.
    fn row(&mut self, label: &str, value: impl std::fmt::Display) {
        let value = value.to_string();
        if !value.is_empty() {
            // Padded before it is styled: the codes of a style have no width on the screen.
            let label = style::dim(format!("{label:<10}"));
            let _ = writeln!(self.text, "  {label} {value}");
        }
    }

    fn optional(&mut self, label: &str, value: Option<impl std::fmt::Display>) {
        if let Some(value) = value {
            self.row(label, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ostler_wire::AgentId;

    fn now() -> Timestamp {
        "2026-11-20T22:00:00Z".parse().unwrap()
    }

    fn agent(json: &str) -> AgentSummary {
        let mut value: serde_json::Map<String, serde_json::Value> = serde_json::from_str(
            r#"{"agent_id":"a","node":"box","kind":"plain","command":["sh","-c","echo hi"],"dir":"/srv",
                "restart":"on-failure","desired":"running","state":"active","status":"running","restarts":0}"#,
        )
        .unwrap();
        value.extend(serde_json::from_str::<serde_json::Map<_, _>>(json).unwrap());
        serde_json::from_value(value.into()).unwrap()
    }

    fn some_agents() -> Vec<AgentSummary> {
        vec![
            agent(
                r#"{"agent_id":"reviewer","kind":"claude","command":["claude"],"status":"working","pid":4242,
                    "started_at":"2026-11-20T21:47:00Z","restarts":2,"host_pid":4240,"last_heartbeat":"2026-11-20T21:59:55Z",
                    "facts":{"processes":3,"cpu_ms":1500,"rss_bytes":212000000,"uptime_ms":780000},
                    "session_id":"s-1","usage":{"input_tokens":1200,"output_tokens":340,"cost_usd":0.0123}}"#,
            ),
            agent(
                r#"{"agent_id":"counter","state":"paused","status":"paused","pid":7,"started_at":"2026-11-20T21:59:59Z"}"#,
            ),
            agent(
                r#"{"agent_id":"crasher","state":"error","cause":"crash_loop","message":"ended 5 times within 60 s",
                    "exit":{"code":3}}"#,
            ),
            agent(r#"{"agent_id":"old","state":"terminated","desired":"stopped","exit":{"signal":15}}"#),
            agent(r#"{"agent_id":"lost","degraded":true,"pid":9}"#),
        ]
    }

    #[test]
    fn the_table_lines_up_and_says_what_matters() {
        insta::assert_snapshot!(plain(&table(&some_agents(), Width::Cut, now())));
    }

    #[test]
    fn the_page_leaves_out_what_is_not_known() {
        let pages: Vec<_> = some_agents().iter().map(|agent| plain(&page(agent, now()))).collect();
        insta::assert_snapshot!(pages.join("\n"));
    }

    #[test]
    fn the_node_page_names_the_bus_and_the_state_directory() {
        let node: NodeInfo = serde_json::from_str(
            r#"{"node":"box","version":"0.1.0","pid":1,"bus_url":"nats://127.0.0.1:4222","state_dir":"/s",
                "started_at":"2026-11-20T21:00:00Z","agents":3,"agents_live":2,"rss_bytes":20971520}"#,
        )
        .unwrap();
        insta::assert_snapshot!(plain(&node_page(&node, now())));
    }

    #[test]
    fn a_message_of_an_agent_stays_on_its_row() {
        let mut rude = agent(r#"{"state":"error","message":"line 1\nline 2\u001b[2J"}"#);
        rude.agent_id = AgentId::parse("rude").unwrap();
        assert_eq!(plain(&table(&[rude], Width::Full, now())).lines().count(), 2);
    }

    fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }
}
