//! Which turn runs, and whose it is.
//!
//! The host gives one prompt at a time, but the CLI also begins turns by itself (a subagent in the background ended),
//! and may fold a prompt into such a turn. So a `result` alone does not say that *our* prompt is done:
//!
//! ```text
//!  Idle          init -> Unprompted          a prompt is written -> Written
//!  Unprompted    result -> Idle              a prompt is written -> WrittenBehind
//!  Written       started -> Prompted         init -> WrittenBehind
//!  WrittenBehind started -> Prompted         result -> Written
//!  Prompted      result -> Idle
//!  any with a prompt: completed, cancelled, exited -> the prompt is over
//! ```
//!
//! `started`, `completed` and `cancelled` are the CLI's `command_lifecycle` lines for the prompt's uuid. A version
//! without them gets the first `init` after the prompt taken for the prompt's own; if its `result` then says that the
//! CLI began the turn, the prompt is still to come.

/// A prompt that was handed out to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Prompt {
    pub(super) input_id: String,
    pub(super) uuid: String,
}

/// The state; see the drawing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) enum Turn {
    /// Nothing runs.
    #[default]
    Idle,
    /// A turn the CLI began by itself.
    Unprompted,
    /// Our prompt is on its way.
    Written(Prompt),
    /// Our prompt waits until the CLI's own turn is done.
    WrittenBehind(Prompt),
    /// A turn that answers our prompt.
    Prompted(Prompt),
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Input<'a> {
    /// The line that opens every turn.
    Init {
        /// True when this version of the CLI tells which prompt a turn answers.
        tells_prompts: bool,
    },
    /// The CLI took up the prompt with this uuid.
    Started(&'a str),
    /// The CLI is done with the prompt of this uuid, or dropped it.
    Closed(&'a str),
    /// The line that ends every turn.
    Result {
        /// True when the CLI says that no prompt caused the turn.
        own: bool,
        /// As for `Init`.
        tells_prompts: bool,
    },
    /// The process is gone.
    Exited,
}

/// What follows from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// Nothing a listener must know.
    None,
    /// A turn began; of this input, or the CLI's own.
    Began(Option<String>),
    /// A turn ended; of this input, or the CLI's own.
    Ended(Option<String>),
}

impl Turn {
    /// The input that keeps the next prompt waiting.
    fn occupied_by(&self) -> Option<&str> {
        match self {
            Self::Idle | Self::Unprompted => None,
            Self::Written(prompt) | Self::WrittenBehind(prompt) | Self::Prompted(prompt) => {
                Some(&prompt.input_id)
            }
        }
    }

    /// A prompt goes out, unless one is open: then its input is named.
    pub(super) fn write(&mut self, prompt: Prompt) -> Result<(), String> {
        if let Some(input_id) = self.occupied_by() {
            return Err(input_id.to_owned());
        }
        *self = match self {
            Self::Unprompted => Self::WrittenBehind(prompt),
            _ => Self::Written(prompt),
        };
        Ok(())
    }

    /// The one transition function.
    pub(super) fn apply(&mut self, input: Input<'_>) -> Change {
        use Change::{Began, Ended};
        let (next, change) = match (std::mem::take(self), input) {
            (Self::Idle, Input::Init { .. }) => (Self::Unprompted, Began(None)),
            (Self::Written(prompt), Input::Init { tells_prompts: true }) => {
                (Self::WrittenBehind(prompt), Began(None))
            }
            (Self::Written(prompt), Input::Init { tells_prompts: false }) => begin(prompt),

            (Self::Written(prompt) | Self::WrittenBehind(prompt), Input::Started(uuid))
                if prompt.uuid == uuid =>
            {
                begin(prompt)
            }

            (Self::Written(prompt) | Self::Prompted(prompt), Input::Closed(uuid)) if prompt.uuid == uuid => {
                (Self::Idle, Ended(Some(prompt.input_id)))
            }
            (Self::WrittenBehind(prompt), Input::Closed(uuid)) if prompt.uuid == uuid => {
                (Self::Unprompted, Ended(Some(prompt.input_id)))
            }

            (Self::Idle | Self::Unprompted, Input::Result { .. }) => (Self::Idle, Ended(None)),
            (Self::WrittenBehind(prompt), Input::Result { .. })
            | (Self::Written(prompt), Input::Result { tells_prompts: true, .. })
            | (
                Self::Written(prompt) | Self::Prompted(prompt),
                Input::Result { own: true, tells_prompts: false },
            ) => (Self::Written(prompt), Ended(None)),
            (Self::Written(prompt) | Self::Prompted(prompt), Input::Result { .. }) => {
                (Self::Idle, Ended(Some(prompt.input_id)))
            }

            (Self::Idle, Input::Exited) => (Self::Idle, Change::None),
            (Self::Unprompted, Input::Exited) => (Self::Idle, Ended(None)),
            (Self::Written(prompt) | Self::WrittenBehind(prompt) | Self::Prompted(prompt), Input::Exited) => {
                (Self::Idle, Ended(Some(prompt.input_id)))
            }

            (state, Input::Init { .. } | Input::Started(_) | Input::Closed(_)) => (state, Change::None),
        };
        *self = next;
        change
    }
}

fn begin(prompt: Prompt) -> (Turn, Change) {
    let input_id = prompt.input_id.clone();
    (Turn::Prompted(prompt), Change::Began(Some(input_id)))
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    fn prompt() -> Prompt {
        Prompt { input_id: "ours".to_owned(), uuid: "u".to_owned() }
    }

    fn name(turn: &Turn) -> &'static str {
        match turn {
            Turn::Idle => "idle",
            Turn::Unprompted => "unprompted",
            Turn::Written(_) => "written",
            Turn::WrittenBehind(_) => "written behind",
            Turn::Prompted(_) => "prompted",
        }
    }

    fn told(change: Change) -> String {
        let whose = |input_id: Option<String>| input_id.unwrap_or_else(|| "its own".to_owned());
        match change {
            Change::None => "-".to_owned(),
            Change::Began(input_id) => format!("began {}", whose(input_id)),
            Change::Ended(input_id) => format!("ended {}", whose(input_id)),
        }
    }

    #[test]
    fn every_state_meets_every_input() {
        let inputs = [
            ("init", Input::Init { tells_prompts: true }),
            ("init (old)", Input::Init { tells_prompts: false }),
            ("started", Input::Started("u")),
            ("started other", Input::Started("v")),
            ("closed", Input::Closed("u")),
            ("closed other", Input::Closed("v")),
            ("result", Input::Result { own: false, tells_prompts: true }),
            ("result own", Input::Result { own: true, tells_prompts: true }),
            ("result (old)", Input::Result { own: false, tells_prompts: false }),
            ("result own (old)", Input::Result { own: true, tells_prompts: false }),
            ("exited", Input::Exited),
        ];
        let states = [
            Turn::Idle,
            Turn::Unprompted,
            Turn::Written(prompt()),
            Turn::WrittenBehind(prompt()),
            Turn::Prompted(prompt()),
        ];
        let mut table = String::new();
        for state in states {
            writeln!(table, "{}", name(&state)).unwrap();
            for (input_name, input) in inputs {
                let mut next = state.clone();
                let change = told(next.apply(input));
                writeln!(table, "  {input_name:<17} -> {:<15} {change}", name(&next)).unwrap();
            }
            let mut next = state.clone();
            let answer = match next.write(prompt()) {
                Ok(()) => "taken".to_owned(),
                Err(input_id) => format!("refused for {input_id}"),
            };
            writeln!(table, "  {:<17} -> {:<15} {answer}", "prompt", name(&next)).unwrap();
        }
        assert_eq!(table, TABLE, "\n{table}");
    }

    const TABLE: &str = "\
idle
  init              -> unprompted      began its own
  init (old)        -> unprompted      began its own
  started           -> idle            -
  started other     -> idle            -
  closed            -> idle            -
  closed other      -> idle            -
  result            -> idle            ended its own
  result own        -> idle            ended its own
  result (old)      -> idle            ended its own
  result own (old)  -> idle            ended its own
  exited            -> idle            -
  prompt            -> written         taken
unprompted
  init              -> unprompted      -
  init (old)        -> unprompted      -
  started           -> unprompted      -
  started other     -> unprompted      -
  closed            -> unprompted      -
  closed other      -> unprompted      -
  result            -> idle            ended its own
  result own        -> idle            ended its own
  result (old)      -> idle            ended its own
  result own (old)  -> idle            ended its own
  exited            -> idle            ended its own
  prompt            -> written behind  taken
written
  init              -> written behind  began its own
  init (old)        -> prompted        began ours
  started           -> prompted        began ours
  started other     -> written         -
  closed            -> idle            ended ours
  closed other      -> written         -
  result            -> written         ended its own
  result own        -> written         ended its own
  result (old)      -> idle            ended ours
  result own (old)  -> written         ended its own
  exited            -> idle            ended ours
  prompt            -> written         refused for ours
written behind
  init              -> written behind  -
  init (old)        -> written behind  -
  started           -> prompted        began ours
  started other     -> written behind  -
  closed            -> unprompted      ended ours
  closed other      -> written behind  -
  result            -> written         ended its own
  result own        -> written         ended its own
  result (old)      -> written         ended its own
  result own (old)  -> written         ended its own
  exited            -> idle            ended ours
  prompt            -> written behind  refused for ours
prompted
  init              -> prompted        -
  init (old)        -> prompted        -
  started           -> prompted        -
  started other     -> prompted        -
  closed            -> idle            ended ours
  closed other      -> prompted        -
  result            -> idle            ended ours
  result own        -> idle            ended ours
  result (old)      -> idle            ended ours
  result own (old)  -> written         ended its own
  exited            -> idle            ended ours
  prompt            -> prompted        refused for ours
";
}
