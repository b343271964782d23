//! What real processes read and write: order, long lines, slow owners, full pipes, and what a child inherits.

mod support;

use ostler_supervise::state::StateName;
use ostler_supervise::unit::{self, QUEUED_BYTES_MAX, Stream, UnitEvent, WriteError};
use support::{Heard, LEAVE_HIDDEN_ORPHAN, command, eventually, process_state, shell};

#[tokio::test]
async fn every_line_of_both_streams_arrives_once_and_in_order() {
    let script = "seq 1 20000 & seq 1 20000 >&2; wait";
    let (_handle, mut events) = unit::start(shell(script));
    let mut next = [1u32, 1];
    while let Some(event) = events.recv().await {
        if let UnitEvent::Output { stream, line, partial, generation, .. } = event {
            let expected = &mut next[usize::from(stream == Stream::Stderr)];
            assert_eq!(line, expected.to_string());
            assert_eq!((partial, generation), (false, 1));
            *expected += 1;
        }
    }
    assert_eq!(next, [20_001, 20_001]);
}

#[tokio::test]
async fn a_long_line_is_split_and_flagged() {
    let mut spec = shell("head -c 2500 /dev/zero | tr '\\0' x; echo; printf end");
    spec.line_bytes_max = 1000;
    let (_handle, mut events) = unit::start(spec);
    let mut pieces = Vec::new();
    while let Some(event) = events.recv().await {
        if let UnitEvent::Output { line, partial, .. } = event {
            pieces.push((line.len(), partial));
        }
    }
    assert_eq!(pieces, [(1000, true), (1000, true), (500, false), (3, false)]);
}

#[tokio::test]
async fn an_owner_who_does_not_listen_blocks_the_process_but_not_the_requests() {
    let (handle, mut events) = unit::start(shell("exec yes yes yes yes yes yes yes yes yes yes yes"));
    // Blocked = found asleep again and again, while this test's runtime does nothing but read.
    let mut asleep = 0;
    eventually("the writer is blocked", || {
        let pid = handle.snapshot().pid.unwrap_or_default();
        asleep = if process_state(pid) == Some('S') { asleep + 1 } else { 0 };
        asleep == 50
    })
    .await;
    assert_eq!(handle.pause().await.expect("requests are served").state, StateName::Paused);
    handle.stop(true).await.expect("requests are served");
    let mut bytes = 0;
    while let Some(event) = events.recv().await {
        if let UnitEvent::Output { line, .. } = event {
            bytes += line.len();
        }
    }
    // Two reads of a pipe may go over: the one that reached the limit and the leftover. Lines this short reach the
    // limit on events first.
    assert!((100_000..QUEUED_BYTES_MAX + 4 * 65_536).contains(&bytes), "{bytes} bytes were queued");
}

#[tokio::test]
async fn reading_held_back_delivers_nothing_until_it_goes_on() {
    let (handle, events) = unit::start(shell("read go; echo one; read go; echo two; exec sleep 1000"));
    let mut heard = Heard::new(events);
    heard.state(StateName::Active).await;
    handle.write(b"\n".to_vec()).await.expect("it reads");
    heard.line("one").await;
    handle.pause_reading(true);
    handle.write(b"\n".to_vec()).await.expect("it reads");
    // The pause is answered after whatever the loop could have read before it.
    handle.pause().await.expect("it is active");
    handle.resume().await.expect("it is paused");
    heard.state(StateName::Active).await;
    assert_eq!(heard.lines, ["one"]);
    handle.pause_reading(false);
    heard.line("two").await;
    handle.kill().await.expect("it runs");
    heard.end().await;
}

#[tokio::test]
async fn the_leftover_of_an_ended_process_is_delivered_although_reading_is_held_back() {
    let (handle, events) = unit::start(shell("read go; echo last words"));
    handle.pause_reading(true);
    let mut heard = Heard::new(events);
    heard.state(StateName::Active).await;
    handle.write(b"\n".to_vec()).await.expect("it reads");
    heard.end().await;
    assert_eq!(heard.lines, ["last words"]);
}

#[tokio::test]
async fn a_process_that_escaped_with_the_pipe_does_not_hold_the_end_back() {
    // Neither guard nor cgroup: an orphan with an empty environment is the known limit.
    let (_handle, events) = unit::start(shell(&format!("{LEAVE_HIDDEN_ORPHAN} echo last words")));
    let mut heard = Heard::new(events);
    let last = heard.end().await;
    assert_eq!(last.state, StateName::Terminated);
    assert!(heard.lines.contains(&"last words".to_owned()), "{:?}", heard.lines);
    assert!(heard.notes.iter().any(|note| note.contains("Stdout open")), "{:?}", heard.notes);
    let orphan: u32 = heard.line("left ").await.parse().expect("a process id");
    std::process::Command::new("kill").arg(orphan.to_string()).status().expect("kill runs");
    eventually("the escaped one is gone", || process_state(orphan).is_none_or(|state| state == 'Z')).await;
}

#[tokio::test]
async fn a_message_larger_than_the_pipe_arrives_whole_and_unmixed() {
    let (handle, events) = unit::start(shell("sleep 0.2; head -c 600002 | wc -lc; exec sleep 1000"));
    let mut heard = Heard::new(events);
    heard.state(StateName::Active).await;
    let big = |byte: u8| [vec![byte; 300_000], vec![b'\n']].concat();
    let (first, second) = tokio::join!(handle.write(big(b'a')), handle.write(big(b'b')));
    assert_eq!((first, second), (Ok(()), Ok(())));
    while heard.lines.is_empty() {
        assert!(heard.next().await);
    }
    assert_eq!(heard.lines[0].split_whitespace().collect::<Vec<_>>(), ["2", "600002"]);
    handle.stop(false).await.expect("it runs");
    heard.end().await;
}

#[tokio::test]
async fn what_is_written_is_read_in_order() {
    let (handle, events) = unit::start(shell("while read line; do echo got $line; done"));
    let mut heard = Heard::new(events);
    heard.state(StateName::Active).await;
    for number in 0..500 {
        handle.write(format!("{number}\n").into_bytes()).await.expect("it reads");
    }
    heard.line("got 499").await;
    let expected: Vec<String> = (0..500).map(|number| format!("got {number}")).collect();
    assert_eq!(heard.lines, expected);
    handle.kill().await.expect("it runs");
    heard.end().await;
}

#[tokio::test]
async fn a_write_to_a_closed_stdin_is_told() {
    let (handle, events) = unit::start(shell("exec 0<&-; echo closed; exec sleep 1000"));
    let mut heard = Heard::new(events);
    heard.line("closed").await;
    assert_eq!(handle.write(b"hello\n".to_vec()).await, Err(WriteError::Closed));
    handle.kill().await.expect("it runs");
    heard.end().await;
}

#[tokio::test]
async fn a_write_that_waits_is_answered_when_the_reader_ends() {
    let (handle, events) = unit::start(shell("echo up; exec sleep 1000"));
    let mut heard = Heard::new(events);
    heard.line("up").await;
    // More than a pipe holds, and nobody reads it.
    let write = tokio::spawn({
        let handle = handle.clone();
        async move { handle.write(vec![b'x'; 1_000_000]).await }
    });
    handle.pause().await.expect("it is active");
    handle.kill().await.expect("it runs");
    heard.end().await;
    let told = write.await.expect("it does not panic");
    assert!(matches!(told, Err(WriteError::Closed | WriteError::NotRunning { .. })), "{told:?}");
}

#[tokio::test]
async fn a_child_starts_with_default_signals_and_exactly_its_environment() {
    let mut spec = shell("grep -E 'Sig(Blk|Ign)' /proc/self/status; env; pwd; ps -o pgid= -p $$; echo $$");
    spec.command.env.push(("GREETING".into(), "hello".into()));
    let marker = spec.marker.clone();
    let (_handle, events) = unit::start(spec);
    let mut heard = Heard::new(events);
    heard.end().await;
    let lines = &heard.lines;
    for line in &lines[..2] {
        let mask = u64::from_str_radix(line.rsplit('\t').next().expect("a mask"), 16).expect("hexadecimal");
        // From 32 on they are real-time signals, the first of them the C library's own.
        assert_eq!(mask & 0x7fff_ffff, 0, "{line}");
    }
    for wanted in ["PATH=/usr/bin:/bin", "GREETING=hello", &format!("OSTLER_RUN={marker}")] {
        assert!(lines.iter().any(|line| line == wanted), "{wanted} is missing: {lines:?}");
    }
    // The shell adds PWD (and some add OLDPWD, _ and SHLVL); nothing of ours may be there.
    assert!(!lines.iter().any(|line| line.starts_with("CARGO")), "{lines:?}");
    let [.., dir, group, leader] = lines.as_slice() else { panic!("{lines:?}") };
    assert_eq!((dir.as_str(), group.trim()), ("/", leader.as_str()));
}

#[tokio::test]
async fn facts_are_those_of_the_live_tree() {
    let (handle, events) = unit::start(shell("sleep 1000 & sleep 1000 & echo up; wait"));
    let mut heard = Heard::new(events);
    heard.line("up").await;
    eventually("three processes live", || handle.facts().process_count == 3).await;
    assert!(handle.facts().rss_bytes > 100_000);
    handle.kill().await.expect("it runs");
    heard.end().await;
    assert_eq!(handle.facts(), ostler_supervise::platform::Facts::default());
}

#[tokio::test]
async fn a_program_named_by_a_relative_path_is_found_from_its_directory() {
    let mut spec = shell("");
    spec.command = command(&["bin/echo", "found"]);
    spec.command.dir = "/usr".into();
    let (_handle, events) = unit::start(spec);
    let mut heard = Heard::new(events);
    heard.end().await;
    assert_eq!(heard.lines, ["found"]);
}
