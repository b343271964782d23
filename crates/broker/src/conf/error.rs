//! What is wrong with a configuration: each problem with its place, its reason and a remedy, and all of them at once.

use std::cell::RefCell;
use std::fmt;

use super::value::Position;

/// One thing that is wrong, or worth a warning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where, if it is in a file.
    pub at: Option<Position>,
    /// What, why, and what to do. Never repeats a secret.
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.at {
            Some(at) => write!(f, "{at}: {}", self.text),
            None => f.write_str(&self.text),
        }
    }
}

/// A configuration that cannot be used: at least one problem, shown one to a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    problems: Vec<Problem>,
}

impl Invalid {
    pub(super) fn one(at: Option<Position>, text: impl Into<String>) -> Self {
        Self { problems: vec![Problem { at, text: text.into() }] }
    }

    /// Everything that is wrong with it, in the order of the file.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            fmt::Display::fmt(problem, f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Invalid {}

/// Where the readers of settings leave what they find. Behind a cell, because a reader of a block and the readers of
/// the blocks within it write at the same time.
#[derive(Debug, Default)]
pub(super) struct Notes {
    errors: RefCell<Vec<Problem>>,
    warnings: RefCell<Vec<Problem>>,
}

impl Notes {
    pub(super) fn error(&self, at: &Position, text: impl Into<String>) {
        self.errors.borrow_mut().push(Problem { at: Some(at.clone()), text: text.into() });
    }

    pub(super) fn warn(&self, at: &Position, text: impl Into<String>) {
        self.warnings.borrow_mut().push(Problem { at: Some(at.clone()), text: text.into() });
    }

    /// The warnings, or every error in the order of the files.
    pub(super) fn finish(self) -> Result<Vec<Problem>, Invalid> {
        let mut problems = self.errors.into_inner();
        if problems.is_empty() {
            // A setting that is looked at twice warns twice.
            let mut warnings = self.warnings.into_inner();
            warnings.dedup();
            return Ok(warnings);
        }
        let place = |problem: &Problem| {
            problem.at.as_ref().map(|at| (at.file.to_string(), at.line, at.column)).unwrap_or_default()
        };
        problems.sort_by_key(place);
        problems.dedup();
        Err(Invalid { problems })
    }
}
