//! What is measured, and what it should reach.

use super::flow::Pattern;
use super::frames::Form;

/// A pattern with a size, and its targets as ratios.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    /// The name on the command line.
    pub(super) name: &'static str,
    /// The words in the table.
    pub(super) words: &'static str,
    pub(super) pattern: Pattern,
    pub(super) form: Form,
    pub(super) delivered: f64,
    pub(super) cpu: Option<f64>,
}

/// Names of measurements that are no flow.
pub(super) const OTHERS: [&str; 4] = ["latency", "crowd", "in-process", "shards"];

/// All flows.
pub(super) fn flows() -> Vec<Shape> {
    let plain = Form { payload: 16, subjects: 1, headers: false };
    let patterns = [
        ("1-1", "1 publisher, 1 subscriber", Pattern::All { publishers: 1, subscribers: 1 }, plain),
        ("1-4", "1 publisher, 4 subscribers", Pattern::All { publishers: 1, subscribers: 4 }, plain),
        ("4-4", "4 publishers, 4 subscribers", Pattern::All { publishers: 4, subscribers: 4 }, plain),
        ("pairs", "4 pairs, a subject each", Pattern::Pairs(4), plain),
        ("queue", "1 publisher, queue group of 4", Pattern::Queue { members: 4 }, plain),
        (
            "wildcard",
            "wildcard over 1000 subjects",
            Pattern::All { publishers: 1, subscribers: 1 },
            Form { subjects: 1000, ..plain },
        ),
        (
            "headers",
            "1 to 1 with headers",
            Pattern::All { publishers: 1, subscribers: 1 },
            Form { headers: true, ..plain },
        ),
    ];
    let mut shapes = Vec::new();
    for (name, words, pattern, form) in patterns {
        for payload in [16, 128] {
            let form = Form { payload, ..form };
            shapes.push(Shape { name, words, pattern, form, delivered: 3.0, cpu: Some(4.0) });
        }
    }
    let (name, words, pattern, form) = patterns[0];
    for (payload, delivered, cpu) in [(1024, 1.3, Some(1.7)), (8192, 1.0, None)] {
        shapes.push(Shape { name, words, pattern, form: Form { payload, ..form }, delivered, cpu });
    }
    shapes
}
