//! Numbers as large as a client can write them, wherever one is taken: nothing counts past its end, at once or after a
//! restart.

use crate::testing::Rig;
use crate::time::SECOND;

/// Does with a stream and its consumers what is usual.
fn use_streams(rig: &mut Rig) {
    for text in ["1", "2", "3"] {
        rig.ask("s.a", text);
    }
    for number in 0..4 {
        rig.send_to(
            "$JS.API.CONSUMER.MSG.NEXT.S.c",
            &format!("_I.{number}"),
            r#"{"batch":1,"no_wait":true}"#,
        );
    }
    rig.api("INFO", "");
    rig.api("STREAM.LIST", "");
    rig.ask("$JS.API.CONSUMER.LIST.S", "");
    for pause in [1, SECOND, 40 * SECOND] {
        rig.jetstream().next_due();
        rig.pass(pause);
    }
}

fn use_it_twice(rig: &mut Rig) {
    use_streams(rig);
    rig.restart();
    use_streams(rig);
    rig.bus.take();
}

fn create(rig: &mut Rig, stream: &str, consumer: &str) {
    let config = format!(r#"{{"name":"S","subjects":["s.>"],"allow_direct":true{stream}}}"#);
    rig.ask("$JS.API.STREAM.CREATE.S", &config);
    let config =
        format!(r#"{{"stream_name":"S","config":{{"durable_name":"c","ack_policy":"explicit"{consumer}}}}}"#);
    rig.ask("$JS.API.CONSUMER.CREATE.S.c", &config);
}

/// What clients write, with the largest numbers in it.
fn largest(text: &str) -> [String; 2] {
    [i64::MAX as u64, u64::MAX - 1].map(|number| text.replace('#', &number.to_string()))
}

#[test]
fn streams_take_the_largest_numbers() {
    for field in [
        r#""max_msgs":#"#,
        r#""max_bytes":#"#,
        r#""max_age":#"#,
        r#""max_msgs_per_subject":#"#,
        r#""max_consumers":#"#,
        r#""first_seq":#"#,
        r#""max_age":#,"duplicate_window":#"#,
        r#""allow_msg_ttl":true,"subject_delete_marker_ttl":#"#,
        r#""consumer_limits":{"inactive_threshold":#,"max_ack_pending":#}"#,
    ] {
        for field in largest(field) {
            let mut rig = Rig::new();
            create(&mut rig, &format!(",{field}"), "");
            for name in ["T", "U", "V"] {
                let config = format!(r#"{{"name":"{name}","subjects":["{name}"],{field}}}"#);
                rig.ask(&format!("$JS.API.STREAM.CREATE.{name}"), &config);
            }
            use_it_twice(&mut rig);
        }
    }
}

#[test]
fn consumers_take_the_largest_numbers() {
    for field in [
        r#""ack_wait":#"#,
        r#""max_deliver":3,"backoff":[#,#]"#,
        r#""max_deliver":#"#,
        r#""inactive_threshold":#"#,
        r#""max_waiting":#"#,
        r#""max_ack_pending":#"#,
        r#""max_batch":#,"max_expires":#,"max_bytes":#"#,
        r#""deliver_policy":"by_start_sequence","opt_start_seq":#"#,
        r#""deliver_subject":"d","idle_heartbeat":#"#,
        r#""deliver_subject":"d","rate_limit_bps":#"#,
        r#""deliver_subject":"d","flow_control":true,"idle_heartbeat":#"#,
        r#""priority_policy":"pinned_client","priority_groups":["g"],"priority_timeout":#"#,
        r#""replay_policy":"original""#,
        r#""pause_until":"2262-04-11T23:47:16Z""#,
    ] {
        for field in largest(field) {
            let mut rig = Rig::new();
            create(&mut rig, "", &format!(",{field}"));
            use_it_twice(&mut rig);
        }
    }
}

#[test]
fn requests_take_the_largest_numbers() {
    for (subject, request) in [
        ("$JS.API.CONSUMER.MSG.NEXT.S.c", r#"{"batch":#,"expires":#}"#),
        ("$JS.API.CONSUMER.MSG.NEXT.S.c", r#"{"batch":#,"max_bytes":#,"expires":#}"#),
        ("$JS.API.CONSUMER.MSG.NEXT.S.c", r#"{"batch":#,"expires":#,"idle_heartbeat":#}"#),
        (
            "$JS.API.CONSUMER.MSG.NEXT.S.c",
            r#"{"batch":1,"expires":9000000000,"idle_heartbeat":4611686018427387903}"#,
        ),
        ("$JS.API.CONSUMER.RESET.S.c", r#"{"seq":#}"#),
        ("$JS.API.STREAM.PURGE.S", r#"{"seq":#}"#),
        ("$JS.API.STREAM.PURGE.S", r#"{"keep":#}"#),
        ("$JS.API.STREAM.MSG.GET.S", r#"{"seq":#}"#),
        ("$JS.API.STREAM.MSG.DELETE.S", r#"{"seq":#}"#),
        ("$JS.API.STREAM.INFO.S", r#"{"offset":#,"subjects_filter":">"}"#),
        ("$JS.API.STREAM.NAMES", r#"{"offset":#}"#),
        ("$JS.API.CONSUMER.LIST.S", r#"{"offset":#}"#),
        ("$JS.API.DIRECT.GET.S", r#"{"seq":1,"batch":#,"max_bytes":#}"#),
        ("$JS.API.DIRECT.GET.S", r#"{"seq":#,"batch":#}"#),
        ("$JS.API.DIRECT.GET.S", r#"{"multi_last":["s.>"],"up_to_seq":#,"batch":#}"#),
        ("$JS.ACK.S.c.1.1.1.1.0", r#"-NAK {"delay":#}"#),
        ("$JS.ACK.S.c.1.1.1.1.0", "-NAK 2562047h47m"),
        ("$JS.ACK.S.c.1.1.1.1.0", r#"+NXT {"batch":#}"#),
        ("$JS.ACK.S.c.#.#.#.#.#", ""),
        ("$JS.ACK.S.c.#.#.#.#.#", "-NAK"),
    ] {
        for (subject, request) in largest(subject).into_iter().zip(largest(request)) {
            let mut rig = Rig::new();
            create(&mut rig, "", r#","max_ack_pending":1"#);
            use_streams(&mut rig);
            for number in 0..4 {
                rig.send_to(&subject, &format!("_I.{number}"), &request);
                rig.send_to("$JS.API.CONSUMER.MSG.NEXT.S.c", "_I.n", r#"{"batch":1,"no_wait":true}"#);
            }
            use_it_twice(&mut rig);
        }
    }
}

#[test]
fn headers_and_replies_take_the_largest_numbers() {
    let more = r#","allow_msg_ttl":true,"allow_msg_schedules":true,"allow_atomic":true,"allow_batched":true"#;
    for headers in [
        "Nats-TTL: #",
        "Nats-TTL: 2562047h",
        "Nats-TTL: 9223372036",
        "Nats-Expected-Last-Sequence: #",
        "Nats-Expected-Last-Subject-Sequence: #",
        "Nats-Batch-Id: b\r\nNats-Batch-Sequence: #",
        "Nats-Schedule: @every 2562047h\r\nNats-Schedule-Target: s.b",
        "Nats-Schedule: @at 2262-04-11T23:47:16Z\r\nNats-Schedule-Target: s.b",
        "Nats-Schedule: @at 0001-01-02T00:00:00Z\r\nNats-Schedule-Target: s.b",
    ] {
        for headers in largest(headers) {
            let mut rig = Rig::new();
            create(&mut rig, more, "");
            rig.ask_with("s.a", &headers, "x");
            use_it_twice(&mut rig);
        }
    }
    let mut rig = Rig::new();
    create(&mut rig, more, "");
    for how in
        ["5.ok.1.0", "#.ok.#.1", "5.ok.18446744073709551615.1", "5.ok.#.4", "5.ok.18446744073709551614.2"]
    {
        for how in largest(how) {
            rig.send_to("s.a", &format!("_I.b.{how}.$FI"), "x");
        }
    }
    use_it_twice(&mut rig);
}

/// The earliest and the latest that nanoseconds since 1970 can say, and what lies beyond.
#[test]
fn pauses_take_the_farthest_times() {
    for until in
        ["1677-09-21T00:12:44Z", "1715-01-01T00:00:00Z", "2262-04-11T23:47:16Z", "9999-12-31T23:59:59Z"]
    {
        let mut rig = Rig::new();
        create(&mut rig, "", "");
        rig.ask("$JS.API.CONSUMER.PAUSE.S.c", &format!(r#"{{"pause_until":"{until}"}}"#));
        use_it_twice(&mut rig);
    }
}
