//! What one turn used, from totals that only ever grow - until they do not.
//!
//! Every `result` carries two totals of the *session*: `total_cost_usd` and `modelUsage`. They include subagents and
//! broken-off turns, which the `usage` beside them leaves out, so the difference of two totals is what a turn used.
//! Three things spoil the plain subtraction, each seen with the real program:
//!
//! * a process that resumes a session goes on from the session's totals after a clean exit, and from zero after a kill;
//! * `/clear` sets them to zero;
//! * only the cost before this process can be asked for (`get_session_cost`), and it comes rounded.

use ostler_wire::Usage;
use serde_json::Value;

/// Where the totals stood when the present process began.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Base {
    /// Not told yet.
    Unknown,
    /// Exactly here.
    Exact(Usage),
    /// About this cost, rounded by the CLI; the tokens are not known.
    Rounded { cost_usd: f64 },
}

/// Turns totals into differences, across the processes of a run.
#[derive(Debug)]
pub(super) struct Ledger {
    base: Base,
    /// The last totals of any process of this run.
    last: Usage,
}

/// Half a cent: what the rounding of `get_session_cost` can hide.
const ROUNDING_USD: f64 = 0.005;

impl Ledger {
    pub(super) fn new() -> Self {
        Self { base: Base::Unknown, last: Usage::default() }
    }

    /// A new process runs: where its totals start is not known.
    pub(super) fn process_started(&mut self) {
        self.base = Base::Unknown;
    }

    /// The CLI said what the session had cost before the first turn of this process. `answer` is text for people, such
    /// as `Estimated cost:        $0.0551`; a text without an amount tells nothing.
    pub(super) fn session_cost(&mut self, answer: &str) {
        if self.base != Base::Unknown {
            return;
        }
        let Some(cost_usd) = amount(answer) else { return };
        self.base = if cost_usd == 0.0 {
            Base::Exact(Usage::default())
        } else if (cost_usd - self.last.cost_usd).abs() <= ROUNDING_USD {
            // It goes on from where our own count ended, and that one is not rounded.
            Base::Exact(self.last)
        } else {
            Base::Rounded { cost_usd }
        };
    }

    /// The conversation was cleared: the totals start at zero again.
    pub(super) fn cleared(&mut self) {
        self.base = Base::Exact(Usage::default());
    }

    /// What the turn of this `result` used.
    pub(super) fn turn(&mut self, result: &Value) -> Usage {
        let totals = totals(result);
        let used = match self.base {
            Base::Exact(base) => difference(totals, base),
            Base::Rounded { cost_usd } => {
                Usage { cost_usd: (totals.cost_usd - cost_usd).max(0.0), ..own_usage(result) }
            }
            // An older CLI does not tell. Zero is right after a kill; after a clean exit it counts the session's cost
            // twice, and too much is the safe side for a budget.
            Base::Unknown => Usage { cost_usd: totals.cost_usd, ..own_usage(result) },
        };
        self.base = Base::Exact(totals);
        self.last = totals;
        used
    }
}

/// The session's totals in a `result`.
fn totals(result: &Value) -> Usage {
    let mut sum = Usage { cost_usd: dollars(&result["total_cost_usd"]), ..Usage::default() };
    for model in result["modelUsage"].as_object().into_iter().flat_map(|models| models.values()) {
        let add = |sum: &mut u64, name: &str| *sum = sum.saturating_add(tokens(&model[name]));
        add(&mut sum.input_tokens, "inputTokens");
        add(&mut sum.output_tokens, "outputTokens");
        add(&mut sum.cache_read_tokens, "cacheReadInputTokens");
        add(&mut sum.cache_write_tokens, "cacheCreationInputTokens");
    }
    sum
}

/// The turn's own `usage`: without subagents and broken-off requests, but without a base either.
fn own_usage(result: &Value) -> Usage {
    let usage = &result["usage"];
    Usage {
        input_tokens: tokens(&usage["input_tokens"]),
        output_tokens: tokens(&usage["output_tokens"]),
        cache_read_tokens: tokens(&usage["cache_read_input_tokens"]),
        cache_write_tokens: tokens(&usage["cache_creation_input_tokens"]),
        cost_usd: 0.0,
    }
}

/// `now - before`; totals that went down started again at zero.
fn difference(now: Usage, before: Usage) -> Usage {
    let fell = now.cost_usd < before.cost_usd
        || now.input_tokens < before.input_tokens
        || now.output_tokens < before.output_tokens
        || now.cache_read_tokens < before.cache_read_tokens
        || now.cache_write_tokens < before.cache_write_tokens;
    if fell {
        return now;
    }
    Usage {
        input_tokens: now.input_tokens - before.input_tokens,
        output_tokens: now.output_tokens - before.output_tokens,
        cache_read_tokens: now.cache_read_tokens - before.cache_read_tokens,
        cache_write_tokens: now.cache_write_tokens - before.cache_write_tokens,
        cost_usd: now.cost_usd - before.cost_usd,
    }
}

fn tokens(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

/// A cost that can be added up: not negative, not infinite.
fn dollars(value: &Value) -> f64 {
    value.as_f64().filter(|cost| cost.is_finite() && *cost > 0.0).unwrap_or(0.0)
}

/// The first amount in dollars of a text.
fn amount(text: &str) -> Option<f64> {
    let (_, after) = text.split_once('$')?;
    let end = after.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == ',')).unwrap_or(after.len());
    after[..end].replace(',', "").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A result with totals, and a turn of 7 tokens of its own.
    fn result(cost_usd: f64, input_tokens: u64) -> Value {
        json!({
            "total_cost_usd": cost_usd,
            "modelUsage": {"a": {"inputTokens": input_tokens}, "b": {"outputTokens": 1}},
            "usage": {"input_tokens": 7},
        })
    }

    fn used(ledger: &mut Ledger, cost_usd: f64, input_tokens: u64) -> (f64, u64) {
        let usage = ledger.turn(&result(cost_usd, input_tokens));
        ((usage.cost_usd * 10_000.0).round() / 10_000.0, usage.input_tokens)
    }

    #[test]
    fn turns_of_one_process_are_differences() {
        let mut ledger = Ledger::new();
        ledger.session_cost("Estimated cost:        $0.0000\nTotal duration (API):  0s");
        assert_eq!(used(&mut ledger, 0.05, 100), (0.05, 100));
        assert_eq!(used(&mut ledger, 0.11, 250), (0.06, 150));
        assert_eq!(used(&mut ledger, 0.11, 250), (0.0, 0), "a turn that asked no model is free");
    }

    #[test]
    fn a_resumed_session_that_starts_at_zero_after_a_kill_is_not_negative() {
        let mut ledger = Ledger::new();
        ledger.session_cost("$0.0000");
        assert_eq!(used(&mut ledger, 0.11, 250), (0.11, 250));
        ledger.process_started();
        ledger.session_cost("$0.0000");
        assert_eq!(used(&mut ledger, 0.05, 100), (0.05, 100));
    }

    #[test]
    fn a_resumed_session_that_goes_on_after_a_clean_exit_is_not_counted_twice() {
        let mut ledger = Ledger::new();
        ledger.session_cost("$0.0000");
        assert_eq!(used(&mut ledger, 0.1104, 250), (0.1104, 250));
        ledger.process_started();
        ledger.session_cost("Estimated cost:        $0.11");
        assert_eq!(used(&mut ledger, 0.1604, 350), (0.05, 100));
    }

    #[test]
    fn a_new_host_learns_the_cost_before_its_time() {
        let mut ledger = Ledger::new();
        ledger.session_cost("Estimated cost:        $1,234.50");
        assert_eq!(used(&mut ledger, 1234.55, 999_999), (0.05, 7), "only the turn's own tokens are known");
        assert_eq!(used(&mut ledger, 1234.60, 1_000_099), (0.05, 100));
    }

    #[test]
    fn a_cleared_conversation_starts_at_zero() {
        let mut ledger = Ledger::new();
        ledger.session_cost("$0");
        used(&mut ledger, 0.5, 1000);
        ledger.cleared();
        assert_eq!(used(&mut ledger, 0.6, 1200), (0.6, 1200));
    }

    #[test]
    fn totals_that_fall_without_notice_start_at_zero_too() {
        let mut ledger = Ledger::new();
        ledger.session_cost("$0");
        used(&mut ledger, 0.5, 1000);
        assert_eq!(used(&mut ledger, 0.1, 200), (0.1, 200));
    }

    #[test]
    fn an_answer_without_an_amount_tells_nothing() {
        for text in ["", "no money", "$", "$.", "$x"] {
            assert_eq!(amount(text), None, "{text}");
        }
        assert_eq!(amount("about $0.88\n$5"), Some(0.88));
    }

    #[test]
    fn nonsense_numbers_count_as_nothing() {
        let usage =
            totals(&json!({"total_cost_usd": -1.0, "modelUsage": {"a": 3, "b": {"inputTokens": "x"}}}));
        assert_eq!(usage, Usage::default());
        assert_eq!(totals(&json!(null)), Usage::default());
    }
}
