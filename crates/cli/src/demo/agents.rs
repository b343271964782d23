//! The three scripted agents of the demo: real processes that know nothing of Ostler, only stdin and stdout.

use std::io::{self, BufRead, Write};
use std::time::Duration;

use clap::ValueEnum;

/// What a crashing agent exits with.
pub(crate) const CRASH_CODE: i32 = 3;

/// The word that makes the crasher crash.
pub(crate) const CRASH_WORD: &str = "crash";

/// Time between two numbers: fast enough that a lost one shows at once.
const COUNT_INTERVAL: Duration = Duration::from_millis(50);

/// Which script an agent follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    /// Answers every line.
    Echo,
    /// Counts from 1.
    Counter,
    /// Crashes when told to.
    Crasher,
}

impl Role {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Echo => "echo",
            Self::Counter => "counter",
            Self::Crasher => "crasher",
        }
    }
}

/// Plays the role until stdin ends (the counter: for ever) or nobody reads what it prints.
///
/// Returns the exit code.
pub(crate) fn play(role: Role) -> u8 {
    let played = match role {
        Role::Echo => converse(io::stdin().lock(), io::stdout().lock(), answer),
        Role::Crasher => converse(io::stdin().lock(), io::stdout().lock(), |line| {
            (line.trim() != CRASH_WORD).then(|| format!("still here; say `{CRASH_WORD}`"))
        }),
        Role::Counter => count(io::stdout().lock()),
    };
    match played {
        Ok(true) => 0,
        Ok(false) => CRASH_CODE as u8,
        // Nobody reads: there is nobody left to tell.
        Err(_) => 1,
    }
}

/// Answers line by line; ends with `false` when there is no answer to one.
fn converse(
    input: impl BufRead,
    mut output: impl Write,
    answer: impl Fn(&str) -> Option<String>,
) -> io::Result<bool> {
    for line in input.lines() {
        match answer(&line?) {
            Some(answer) => writeln!(output, "{answer}")?,
            None => return Ok(false),
        }
        output.flush()?;
    }
    Ok(true)
}

/// What the echo agent says.
pub(crate) fn answer(line: &str) -> Option<String> {
    let words = line.split_whitespace().count();
    let plural = if words == 1 { "" } else { "s" };
    Some(format!("you said {line:?}, {words} word{plural}"))
}

fn count(mut output: impl Write) -> io::Result<bool> {
    for number in 1_u64.. {
        writeln!(output, "{number}")?;
        output.flush()?;
        std::thread::sleep(COUNT_INTERVAL);
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_echo_agent_answers_every_line() {
        let mut said = Vec::new();
        assert!(converse(&b"hello there\nbye\n"[..], &mut said, answer).unwrap());
        assert_eq!(
            String::from_utf8(said).unwrap(),
            "you said \"hello there\", 2 words\nyou said \"bye\", 1 word\n"
        );
    }

    #[test]
    fn a_line_without_an_answer_is_the_end() {
        let mut said = Vec::new();
        assert!(!converse(&b"a\nb\n"[..], &mut said, |line| (line != "a").then(String::new)).unwrap());
        assert!(said.is_empty());
    }
}
