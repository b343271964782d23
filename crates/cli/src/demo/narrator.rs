//! Tells the story of the demo: numbered steps for people, one JSON line per step for programs.

use std::time::{Duration, Instant};

use serde::Serialize;

use crate::exit::{Failure, Outcome};
use crate::render::style;
use crate::screen::Screen;

/// One finished step, as `--json` prints it.
#[derive(Debug, Serialize)]
struct Step {
    step: u32,
    title: &'static str,
    ok: bool,
    millis: u128,
    /// What was seen, in order.
    observed: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

pub(crate) struct Narrator {
    screen: Screen,
    step: u32,
    title: &'static str,
    begun: Instant,
    started: Instant,
    observed: Vec<String>,
}

impl Narrator {
    pub(crate) fn new(screen: Screen) -> Self {
        let now = Instant::now();
        Self { screen, step: 0, title: "", begun: now, started: now, observed: Vec::new() }
    }

    /// What is about to happen.
    pub(crate) fn open(&self, text: &str) -> Outcome {
        if self.screen.is_json() { Ok(()) } else { self.screen.line(text) }
    }

    /// Begins the next step.
    pub(crate) fn step(&mut self, title: &'static str) -> Outcome {
        self.step += 1;
        self.title = title;
        self.begun = Instant::now();
        self.observed.clear();
        if self.screen.is_json() {
            return Ok(());
        }
        self.screen.line(format!("\n{}  {}", style::hint(self.step), style::strong(title)))
    }

    /// Something seen on the bus or in the process table.
    pub(crate) fn saw(&mut self, text: impl Into<String>) -> Outcome {
        let text = text.into();
        if !self.screen.is_json() {
            self.screen.line(format!("   {}", style::dim(&text)))?;
        }
        self.observed.push(text);
        Ok(())
    }

    /// Ends the step: all of it was observed.
    pub(crate) fn proved(&mut self, text: &str) -> Outcome {
        self.observed.push(text.to_owned());
        if self.screen.is_json() {
            return self.finish(None);
        }
        self.screen.line(format!("   {} {text}", style::good("✓")))
    }

    /// Ends the step and the story: something was not as it should be.
    pub(crate) fn failed(&mut self, failure: &Failure) -> Outcome {
        if self.screen.is_json() {
            return self.finish(Some(failure.message.clone()));
        }
        self.screen.line(format!("   {} step {} was not observed", style::error("✗"), self.step))
    }

    /// The last line.
    pub(crate) fn close(&self) -> Outcome {
        if self.screen.is_json() {
            return Ok(());
        }
        let took = self.started.elapsed().as_secs_f64();
        let all =
            style::good(format!("✓ all {} steps observed in {took:.1} s; nothing of it is left", self.step));
        self.screen.line(format!("\n{all}\n  next: {}", style::strong("ostler up -d")))
    }

    /// Time since the step began.
    pub(crate) fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    fn finish(&mut self, error: Option<String>) -> Outcome {
        let step = Step {
            step: self.step,
            title: self.title,
            ok: error.is_none(),
            millis: self.begun.elapsed().as_millis(),
            observed: std::mem::take(&mut self.observed),
            error,
        };
        self.screen.json(&step)
    }
}
