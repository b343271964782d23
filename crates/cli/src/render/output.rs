//! What an agent printed and did, as lines for a person: its own lines untouched, its typed events compactly.

use ostler_wire::{AgentEvent, NoticeLevel, OutputMessage, OutputStream, Usage};

use super::{cut, duration, harmless, single_line, style};
use crate::screen::Target;

/// Arguments and results of tools are long; their beginning says which it is.
const TOOL_CHARS_MAX: usize = 160;

/// Something to print.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Piece {
    /// Bytes of the agent, untouched.
    Raw(Target, Vec<u8>),
    /// Our words, with colours.
    Ours(String),
}

/// How answers that come in pieces are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    /// The whole blocks; right for a log.
    Blocks,
    /// The pieces as they come; right for somebody who waits.
    Pieces,
}

/// Turns outputs into pieces to print; remembers whether a line is unfinished.
#[derive(Debug)]
pub(crate) struct Renderer {
    pace: Pace,
    /// The kind of text whose pieces are on the screen while its block is not complete.
    streaming: Option<Streamed>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Streamed {
    Text,
    Thinking,
}

impl Renderer {
    pub(crate) fn new(pace: Pace) -> Self {
        Self { pace, streaming: None }
    }

    /// What to print for one output; nothing for what only matters to programs.
    pub(crate) fn render(&mut self, output: &OutputMessage) -> Vec<Piece> {
        match (&output.event, output.stream) {
            (Some(event), _) => self.event(event).into_iter().map(Piece::Ours).collect(),
            (None, OutputStream::Event) => Vec::new(),
            (None, stream) => {
                let mut pieces: Vec<Piece> = self.finish_line().into_iter().map(Piece::Ours).collect();
                pieces.push(line(
                    output,
                    if stream == OutputStream::Stderr { Target::Err } else { Target::Out },
                ));
                pieces
            }
        }
    }

    fn event(&mut self, event: &AgentEvent) -> Option<String> {
        let text = match event {
            AgentEvent::Text { text, delta } => return self.block(Streamed::Text, text, *delta),
            AgentEvent::Thinking { text, delta } => return self.block(Streamed::Thinking, text, *delta),
            AgentEvent::TurnStarted => return None,
            AgentEvent::Session { session_id, model, .. } => {
                let model = model.as_deref().map(|model| format!(", model {}", single_line(model)));
                style::dim(format!("· session {}{}", single_line(session_id), model.unwrap_or_default()))
            }
            AgentEvent::ToolUse { name, input, .. } => {
                let input = cut(&single_line(&input.to_string()), TOOL_CHARS_MAX);
                format!("{} {}", style::hint(format!("→ {}", single_line(name))), style::dim(input))
            }
            AgentEvent::ToolResult { is_error, content, .. } => {
                let content = content.as_str().map(str::to_owned).unwrap_or_else(|| content.to_string());
                let content = style::dim(cut(&single_line(&content), TOOL_CHARS_MAX));
                let mark = if *is_error { style::warning("← failed") } else { style::dim("←") };
                format!("{mark} {content}")
            }
            AgentEvent::Permission { tool, allowed, reason, .. } => {
                let verdict = if *allowed { "allowed" } else { "refused" };
                let text = format!("! {} is {verdict}: {}", single_line(tool), single_line(reason));
                if *allowed { style::dim(text) } else { style::warning(text) }
            }
            AgentEvent::Retry { attempt, attempts_max, delay_ms, status } => {
                let of = attempts_max.map(|max| format!(" of {max}")).unwrap_or_default();
                let after = delay_ms.map(|ms| format!(" in {:.1} s", ms as f64 / 1000.0)).unwrap_or_default();
                let why = status.map_or("connection broken".to_owned(), |status| format!("HTTP {status}"));
                style::warning(format!("! the model's service failed ({why}), attempt {attempt}{of}{after}"))
            }
            AgentEvent::Result { is_error, text, reason, duration_ms, usage: used } => {
                let took =
                    duration_ms.map(|ms| format!(" in {:.1} s", ms as f64 / 1000.0)).unwrap_or_default();
                if *is_error {
                    let reason = reason.as_deref().map(|reason| format!(" ({})", single_line(reason)));
                    style::error(format!(
                        "✗ failed{took}{}: {}",
                        reason.unwrap_or_default(),
                        single_line(text)
                    ))
                } else {
                    format!(
                        "{} {}",
                        style::good(format!("✓ done{took}")),
                        style::dim(format!("· {}", usage(used)))
                    )
                }
            }
            AgentEvent::Notice { level, text } => match level {
                NoticeLevel::Info => style::dim(format!("· {}", single_line(text))),
                NoticeLevel::Warning => style::warning(format!("! {}", single_line(text))),
                NoticeLevel::Error => style::error(format!("! {}", single_line(text))),
            },
            AgentEvent::Dropped { from_seq, to_seq, bytes } => style::warning(format!(
                "! {} outputs ({}) were lost while nobody took them",
                to_seq.saturating_sub(*from_seq) + 1,
                super::bytes(*bytes)
            )),
            AgentEvent::Other { .. } => return None,
        };
        Some(format!("{}{text}\n", self.finish_line().unwrap_or_default()))
    }

    /// A block, or a piece of one: whoever has seen the pieces does not need the block.
    fn block(&mut self, kind: Streamed, text: &str, is_piece: bool) -> Option<String> {
        let text = harmless(text);
        let shown = if kind == Streamed::Thinking { style::dim(&text) } else { text };
        match (is_piece, self.pace) {
            (true, Pace::Blocks) => None,
            (true, Pace::Pieces) => {
                let before = if self.streaming == Some(kind) { None } else { self.finish_line() };
                self.streaming = Some(kind);
                Some(format!("{}{shown}", before.unwrap_or_default()))
            }
            (false, _) if self.streaming == Some(kind) => self.finish_line(),
            (false, _) => {
                let before = self.finish_line().unwrap_or_default();
                Some(format!("{before}{}\n", shown.trim_end_matches('\n')))
            }
        }
    }

    /// Ends a line that pieces left unfinished.
    fn finish_line(&mut self) -> Option<String> {
        self.streaming.take().map(|_| "\n".to_owned())
    }
}

/// A line of the agent, as it printed it.
fn line(output: &OutputMessage, target: Target) -> Piece {
    // `data` has replacement characters where the line is no UTF-8.
    let exact = output.data_base64.as_deref().and_then(super::base64::decode);
    let mut bytes = exact.unwrap_or_else(|| output.data.clone().unwrap_or_default().into_bytes());
    if !output.partial {
        bytes.push(b'\n');
    }
    Piece::Raw(target, bytes)
}

/// `1200 tokens in, 340 out, $0.0123`.
pub(crate) fn usage(usage: &Usage) -> String {
    let cached = usage.cache_read_tokens + usage.cache_write_tokens;
    let cached = if cached > 0 { format!(", {cached} cached") } else { String::new() };
    let cost = if usage.cost_usd > 0.0 { format!(", ${:.4}", usage.cost_usd) } else { String::new() };
    format!("{} tokens in, {} out{cached}{cost}", usage.input_tokens, usage.output_tokens)
}

/// Sentence for outputs that should have come and did not.
pub(crate) fn missing(from_seq: u64, to_seq: u64) -> String {
    style::warning(format!(
        "! outputs {from_seq} to {to_seq} are not here (yet); `ostler logs` may show them later"
    ))
}

/// `exit code 3 after 12 s`.
pub(crate) fn ending(exit: &str, uptime_ms: Option<u64>) -> String {
    match uptime_ms {
        Some(ms) => format!("{exit} after {}", duration(ms / 1000)),
        None => exit.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn output(stream: &str, extra: serde_json::Value) -> OutputMessage {
        let mut value = json!({
            "agent_id": "a", "run_id": "01890000-0000-7000-8000-000000000000", "seq": 1, "stream": stream,
            "timestamp": "2026-11-20T22:00:00Z",
        });
        let object = value.as_object_mut().unwrap();
        object.extend(extra.as_object().unwrap().clone());
        serde_json::from_value(value).unwrap()
    }

    fn turn() -> Vec<OutputMessage> {
        [
            json!({"type":"session","session_id":"s-1","model":"m-2"}),
            json!({"type":"turn_started"}),
            json!({"type":"thinking","text":"let me ","delta":true}),
            json!({"type":"thinking","text":"see","delta":true}),
            json!({"type":"thinking","text":"let me see"}),
            json!({"type":"text","text":"Two ","delta":true}),
            json!({"type":"text","text":"files.","delta":true}),
            json!({"type":"text","text":"Two files."}),
            json!({"type":"tool_use","tool_use_id":"t","name":"Bash","input":{"command":"ls"}}),
            json!({"type":"tool_result","tool_use_id":"t","is_error":false,"content":"a\nb"}),
            json!({"type":"permission","tool":"Write","input":{},"allowed":false,"reason":"no writes"}),
            json!({"type":"retry","attempt":2,"attempts_max":10,"delay_ms":1500,"status":529}),
            json!({"type":"notice","level":"warning","text":"low on context\u{1b}[2J"}),
            json!({"type":"dropped","from_seq":3,"to_seq":9,"bytes":2048}),
            json!({"type":"other","name":"future"}),
            json!({"type":"result","is_error":false,"text":"Two files.","duration_ms":1234,
                   "usage":{"input_tokens":12,"output_tokens":3,"cost_usd":0.5}}),
            json!({"type":"result","is_error":true,"text":"gone","reason":"agent_exited","usage":{}}),
        ]
        .into_iter()
        .map(|event| output("event", json!({ "event": event })))
        .collect()
    }

    fn shown(pace: Pace) -> String {
        let mut renderer = Renderer::new(pace);
        let text: String = turn()
            .iter()
            .flat_map(|output| renderer.render(output))
            .map(|piece| match piece {
                Piece::Ours(text) => text,
                Piece::Raw(..) => panic!("an event has no raw bytes"),
            })
            .collect();
        anstream::adapter::strip_str(&text).to_string()
    }

    #[test]
    fn a_log_shows_whole_blocks() {
        insta::assert_snapshot!(shown(Pace::Blocks));
    }

    #[test]
    fn pieces_and_their_block_are_shown_once() {
        assert_eq!(shown(Pace::Pieces), shown(Pace::Blocks));
    }

    #[test]
    fn lines_of_the_agent_are_not_touched() {
        let mut renderer = Renderer::new(Pace::Blocks);
        let line = output("stderr", json!({"data": "\u{1b}[31mred\u{1b}[0m "}));
        let expected = Piece::Raw(Target::Err, b"\x1b[31mred\x1b[0m \n".to_vec());
        assert_eq!(renderer.render(&line), vec![expected]);
        let odd = output("stdout", json!({"data": "a\u{fffd}", "data_base64": "Yf8="}));
        assert_eq!(renderer.render(&odd), vec![Piece::Raw(Target::Out, b"a\xff\n".to_vec())]);
        let long = output("stdout", json!({"data": "aaa", "partial": true}));
        assert_eq!(renderer.render(&long), vec![Piece::Raw(Target::Out, b"aaa".to_vec())]);
    }
}
