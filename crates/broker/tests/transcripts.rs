//! Golden transcripts of a whole server: client bytes, `---`, server bytes. Each block is a connection of its own.
//!
//! The client's half ends with an implicit `PING` where the connection is expected to live, so that the answer has an
//! end; its `PONG` is part of the output. A block whose output ends in `closed` is read until the server hangs up.
//! Lines end in CR LF; `\n \r \t \0 \\` are escapes, a line that ends in a lone `\` gets no line end. INFO is not
//! shown. The server's name in `houses` stands in a first line `! name`.
//!
//! A conversation has several clients, A, B, ...: `A> line` says it, a line of another client or `..` ends a turn, and
//! `A< line` is what A heard in a turn, see `dialogue`.
#![cfg(test)]

mod common;
mod dialogue;
mod houses;

use common::Raw;
use dialogue::files::{blocks, steps, unescape};
use dialogue::play as play_conversation;
use houses::Ours;
use ostler_broker::Server;

#[test]
fn scripts_are_answered_to_the_byte() {
    let blocks = blocks("scripts");
    for block in &blocks {
        let house = Ours::start(&block.house);
        let said = play(&house.server, &block.input, &block.output);
        assert_eq!(said, block.output, "{}: {}:\n{:#?}", block.file, block.house, block.input);
    }
    assert!(blocks.len() > 45, "only {} blocks were found", blocks.len());
}

#[test]
fn conversations_are_heard_by_everybody_to_the_byte() {
    let blocks = blocks("conversations");
    for block in &blocks {
        let house = Ours::start(&block.house);
        let heard = play_conversation(&house, &steps(&block.input));
        assert_eq!(heard, block.output, "{}: {}:\n{:#?}", block.file, block.house, block.input);
    }
    assert!(blocks.len() > 12, "only {} blocks were found", blocks.len());
}

fn play(server: &Server, input: &[String], expected: &[String]) -> Vec<String> {
    let (mut client, _) = Raw::open(server.local_addr());
    client.send(unescape(input));
    let mut said: Vec<String> = Vec::new();
    if expected.last().is_some_and(|line| line == "closed") {
        let text = client.until_closed();
        said.extend(text.lines().map(|line| line.trim_end().to_owned()));
        said.push("closed".into());
    } else {
        client.send("PING\r\n");
        let wanted = expected.iter().filter(|line| *line == "PONG").count();
        assert!(wanted > 0, "the output of a living connection ends in PONG");
        let mut pongs = 0;
        while pongs < wanted {
            let line = client.line();
            pongs += usize::from(line == "PONG");
            said.push(line);
        }
    }
    said.iter().map(|line| line.replace('\t', "\\t")).collect()
}
