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
