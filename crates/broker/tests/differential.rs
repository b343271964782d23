//! Our server and a real nats-server are told the same and must say the same, to the byte.
//!
//! Scripts are the transcripts of this folder and what [`made_up`] makes up from fixed seeds. A difference counts when
//! it comes again; then the script is cut down to the steps that are needed for it. Differences that are wanted stand
//! in [`WANTED`]. Without a nats-server the tests say so and do nothing.
//!
//! `OSTLER_DIFFERENTIAL_SEEDS=1000..9000` plays other made-up scripts than the usual ones.
#![cfg(test)]

mod common;
mod dialogue;
mod houses;
mod made_up;

use std::ops::Range;

use common::nats_server;
use dialogue::files::{blocks, steps, unescape};
use dialogue::{Step, Target, play, script};
use houses::{HOUSES, Ours, Theirs};

/// Seeds of the scripts that are played each time, per house.
const SEEDS: Range<u64> = 0..60;
/// Where ours answers otherwise on purpose: the reason, the house, and a conversation in which it shows. A test sees
/// that it still does, so the list holds nothing that is settled.
const WANTED: [(&str, &str, &str); 6] = [
    (
        "who may not publish everywhere may only name replies that it could subscribe to itself (ADR 0011)",
        "users",
        r#"A> CONNECT {"verbose":true,"user":"limited","pass":"limited"}
A> PUB secret.x agent.b.kill 0
A>"#,
    ),
    (
        "every subscription of a requester that matches its inbox hears that nobody answers, not any one of them",
        "open",
        r#"A> CONNECT {"verbose":false,"headers":true,"no_responders":true}
A> SUB *.* 1
A> SUB inbox.a 2
A> PUB nobody inbox.a 0
A>"#,
    ),
    (
        "no secret is kept: a second CONNECT proves again who it is",
        "users",
        r#"A> CONNECT {"verbose":false,"user":"all","pass":"all"}
A> CONNECT {}"#,
    ),
    (
        "that nobody answers is a delivery like any other: the maximum of UNSUB counts it",
        "open",
        r#"A> CONNECT {"verbose":false,"headers":true,"no_responders":true}
A> SUB inbox 1
A> UNSUB 1 1
A> PUB nobody inbox 0
A>
A> PUB nobody inbox 0
A>"#,
    ),
    (
        "only what lies wholly inside `allow` is permitted, and `a.>` goes beyond `a.*`",
        "users",
        r#"A> CONNECT {"verbose":false,"user":"limited","pass":"limited"}
A> SUB day.> 1
A>"#,
    ),
    ("what a client says behind INFO is nobody's business and not looked at", "open", "A> INFO nothing"),
];
/// A difference has to come so many times in a row.
const TIMES: usize = 3;

/// Seeds from the environment, as `from..until`.
fn seeds() -> Range<u64> {
    let Ok(range) = std::env::var("OSTLER_DIFFERENTIAL_SEEDS") else { return SEEDS };
    let (from, until) = range.split_once("..").expect("seeds are given as from..until");
    from.parse().expect("a number")..until.parse().expect("a number")
}

/// Makes one of the wanted differences equal that cannot be left out of what is made up: how many subscriptions of a
/// requester hear that nobody answers, and which.
fn once(heard: Vec<String>) -> Vec<String> {
    let mut equal: Vec<String> = Vec::new();
    for line in heard {
        let silence = line.contains("< NATS/1.0 503\\r\\nNats-Subject: ");
        if silence && let Some(head) = equal.pop() {
            let mut words: Vec<&str> = head.split(' ').collect();
            words[3] = "any";
            equal.push(words.join(" "));
        }
        equal.push(line);
        if let [.., a, b, c, d] = equal.as_slice()
            && silence
            && (a, b) == (c, d)
        {
            equal.truncate(equal.len() - 2);
        }
    }
    equal
}

/// What both said, if it is not the same.
fn difference(ours: &dyn Target, theirs: &dyn Target, steps: &[Step]) -> Option<(Vec<String>, Vec<String>)> {
    let mut both = (Vec::new(), Vec::new());
    for _ in 0..TIMES {
        both = (once(play(ours, steps)), once(play(theirs, steps)));
        if both.0 == both.1 {
            return None;
        }
    }
    Some(both)
}

/// Leaves out every step that the difference does not need.
fn shrink(ours: &dyn Target, theirs: &dyn Target, mut steps: Vec<Step>) -> Vec<Step> {
    let mut at = steps.len();
    while at > 0 {
        at -= 1;
        let mut fewer = steps.clone();
        fewer.remove(at);
        if difference(ours, theirs, &fewer).is_some() {
            steps = fewer;
        }
    }
    steps
}

fn report(house: &str, ours: &dyn Target, theirs: &dyn Target, steps: Vec<Step>) -> Option<String> {
    difference(ours, theirs, &steps)?;
    let steps = shrink(ours, theirs, steps);
    let (mine, real) = difference(ours, theirs, &steps)?;
    let indented = |lines: &[String]| lines.iter().map(|line| format!("    {line}\n")).collect::<String>();
    Some(format!(
        "house {house}:\n{}  ours:\n{}  nats-server:\n{}",
        script(&steps),
        indented(&mine),
        indented(&real)
    ))
}

fn compare(house: &str, scripts: impl Iterator<Item = (String, Vec<Step>)>) {
    let Some(program) = nats_server() else { return };
    let (ours, theirs) = (Ours::start(house), Theirs::start(&program, house));
    let mut differences = Vec::new();
    let mut played = 0;
    for (name, steps) in scripts {
        played += 1;
        if let Some(text) = report(house, &ours, &theirs, steps) {
            differences.push(format!("{name}, {text}"));
        }
    }
    println!("{house}: {played} scripts played on both servers");
    assert!(differences.is_empty(), "{} differences\n{}", differences.len(), differences.join("\n"));
}

fn made_up_scripts(house: &str) {
    compare(house, seeds().map(|seed| (format!("seed {seed}"), made_up::steps(house, seed))));
}

#[test]
fn wanted_differences_are_still_there() {
    let Some(program) = nats_server() else { return };
    for (reason, house, script) in WANTED {
        let (ours, theirs) = (Ours::start(house), Theirs::start(&program, house));
        let lines: Vec<String> = script.lines().map(str::to_owned).collect();
        let steps = steps(&lines);
        assert_ne!(play(&ours, &steps), play(&theirs, &steps), "no difference any more: {reason}");
    }
}

#[test]
fn transcripts_are_answered_as_nats_server_answers_them() {
    for house in HOUSES {
        let single = blocks("scripts").into_iter().map(|block| {
            let said = vec![Step::say(0, unescape(&block.input))];
            (block, said)
        });
        let several = blocks("conversations").into_iter().map(|block| {
            let said = steps(&block.input);
            (block, said)
        });
        let of_house = single.chain(several).filter(|(block, _)| block.house == house);
        compare(house, of_house.map(|(block, said)| (format!("{}: {:?}", block.file, block.input), said)));
    }
}

#[test]
fn made_up_conversations_are_answered_as_nats_server_answers_them() {
    made_up_scripts("open");
}

#[test]
fn made_up_conversations_at_small_limits_are_answered_as_nats_server_answers_them() {
    made_up_scripts("small");
}

#[test]
fn made_up_conversations_of_users_are_answered_as_nats_server_answers_them() {
    made_up_scripts("users");
}
