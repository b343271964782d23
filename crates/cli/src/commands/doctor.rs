//! `ostler doctor`: looks at everything Ostler needs, and says what to do about what is missing.

use std::process::ExitCode;

use serde::Serialize;

use crate::checkup::{self, Check, Verdict};
use crate::connect::Places;
use crate::exit::{Exit, Outcome};
use crate::render::style;
use crate::screen::Screen;

#[derive(Debug, clap::Args)]
#[command(after_help = "Ends with 1 when a check fails; a warning is no failure.")]
pub(crate) struct Args {}

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    ok: bool,
    checks: Vec<Check>,
}

pub(crate) async fn run(_: &Args, places: &Places, screen: Screen) -> Outcome<ExitCode> {
    let checks = checkup::examine(places).await;
    let ok = checks.iter().all(|check| check.verdict != Verdict::Fail);
    if screen.is_json() {
        screen.json(&Report { ok, checks })?;
    } else {
        checks.iter().try_for_each(|check| screen.text(&lines(check)))?;
    }
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::from(Exit::Failed as u8) })
}

/// The check, and below it the remedy where one is needed.
fn lines(check: &Check) -> String {
    // Padded before it is styled: the codes of a style have no width on the screen.
    let verdict = match check.verdict {
        Verdict::Ok => style::good("ok  "),
        Verdict::Warn => style::warning("warn"),
        Verdict::Fail => style::error("fail"),
    };
    let remedy = check.remedy.as_ref().map(|remedy| format!("{:19}{} {remedy}\n", "", style::hint("→")));
    format!("{verdict}  {:<12} {}\n{}", check.name, check.text, remedy.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remedy_stands_below_its_check() {
        let checks = [
            Check::ok("disk space", "9.1 GiB free"),
            Check::warn(
                "agent CLIs",
                "claude is not on the PATH",
                "npm install -g @anthropic-ai/claude-code",
            ),
            Check::fail("state", "/s cannot be written", "chown it, or give --state-dir"),
        ];
        let text: String = checks.iter().map(lines).collect();
        insta::assert_snapshot!(anstream::adapter::strip_str(&text).to_string());
    }
}
