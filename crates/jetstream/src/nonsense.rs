//! Whatever clients send, nothing panics, and afterwards everything still works.

use proptest::prelude::*;

use crate::bus::Incoming;
use crate::testing::Rig;

const SUBJECTS: [&str; 24] = [
    "$JS.API.INFO",
    "$JS.API.STREAM.CREATE.S",
    "$JS.API.STREAM.CREATE.T",
    "$JS.API.STREAM.UPDATE.S",
    "$JS.API.STREAM.INFO.S",
    "$JS.API.STREAM.NAMES",
    "$JS.API.STREAM.LIST",
    "$JS.API.STREAM.PURGE.S",
    "$JS.API.STREAM.MSG.GET.S",
    "$JS.API.STREAM.MSG.DELETE.S",
    "$JS.API.DIRECT.GET.S",
    "$JS.API.DIRECT.GET.S.s.a",
    "$JS.API.CONSUMER.CREATE.S",
    "$JS.API.CONSUMER.CREATE.S.c",
    "$JS.API.CONSUMER.CREATE.S.c.s.>",
    "$JS.API.CONSUMER.DURABLE.CREATE.S.c",
    "$JS.API.CONSUMER.MSG.NEXT.S.c",
    "$JS.API.CONSUMER.PAUSE.S.c",
    "$JS.API.CONSUMER.LIST.S",
    "$JS.ACK.S.c.1.1.1.1.0",
    "$JS.ACK.S.c.1.18446744073709551615.18446744073709551615.1.0",
    "$JS.FC.S.c.x",
    "s.a",
    "s.b",
];

fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("null".to_owned()),
        any::<i64>().prop_map(|number| number.to_string()),
        prop::sample::select(vec!["9223372036854775807", "18446744073709551615", "-9223372036854775808"])
            .prop_map(str::to_owned),
        (-3..3i64).prop_map(|number| number.to_string()),
        any::<bool>().prop_map(|truth| truth.to_string()),
        prop::sample::select(vec![
            "S",
            "c",
            "s.>",
            "s.*",
            ">",
            "",
            "a..b",
            "memory",
            "new",
            "all",
            "explicit",
            "limits",
            "2020-01-01T00:00:00Z"
        ])
        .prop_map(|text| format!("{text:?}")),
        Just(r#"["s.a","s.*"]"#.to_owned()),
        Just("{}".to_owned()),
    ]
}

fn payload() -> impl Strategy<Value = String> {
    const FIELDS: [&str; 48] = [
        "name",
        "stream_name",
        "subjects",
        "storage",
        "max_msgs",
        "max_bytes",
        "max_age",
        "max_msgs_per_subject",
        "discard",
        "retention",
        "duplicate_window",
        "first_seq",
        "republish",
        "allow_direct",
        "allow_msg_ttl",
        "subject_delete_marker_ttl",
        "sealed",
        "seq",
        "last_by_subj",
        "next_by_subj",
        "batch",
        "start_time",
        "multi_last",
        "up_to_seq",
        "up_to_time",
        "no_hdr",
        "filter",
        "keep",
        "offset",
        "subjects_filter",
        "deleted_details",
        "expires",
        "max_bytes",
        "no_wait",
        "idle_heartbeat",
        "pause_until",
        "delay",
        "config",
        "action",
        "no_erase",
        "ack_wait",
        "backoff",
        "inactive_threshold",
        "max_deliver",
        "max_ack_pending",
        "deliver_subject",
        "opt_start_seq",
        "rate_limit_bps",
    ];
    let field = (prop::sample::select(FIELDS.to_vec()), value())
        .prop_map(|(name, value)| format!("{name:?}:{value}"));
    let object =
        prop::collection::vec(field, 0..5).prop_map(|fields| format!("{{{}}}", fields.join(","))).boxed();
    let consumer = object.clone().prop_map(|config| format!(r#"{{"stream_name":"S","config":{config}}}"#));
    prop_oneof![
        4 => object,
        2 => consumer,
        1 => ".{0,12}",
        1 => prop::sample::select(vec!["+ACK", "-NAK", "-NAK 1s", "+WPI", "+NXT 5", "+TERM x", "7", "-1"]).prop_map(str::to_owned),
    ]
}

fn headers() -> impl Strategy<Value = String> {
    const NAMES: [&str; 15] = [
        "Nats-Msg-Id",
        "Nats-TTL",
        "Nats-Rollup",
        "Nats-Expected-Stream",
        "Nats-Expected-Last-Sequence",
        "Nats-Expected-Last-Subject-Sequence",
        "Nats-Expected-Last-Subject-Sequence-Subject",
        "Nats-Expected-Last-Msg-Id",
        "Nats-Batch-Id",
        "Nats-Batch-Sequence",
        "Nats-Batch-Commit",
        "Nats-Incr",
        "Nats-Schedule",
        "Nats-Schedule-Target",
        "X",
    ];
    let line = (
        prop::sample::select(NAMES.to_vec()),
        "[a-z0-9.>*-]{0,8}|[0-3]|eob|@every 1s|\\* \\* \\* \\* \\* \\*|s.b",
    );
    let block = prop::collection::vec(line, 1..4).prop_map(|lines| {
        let lines: String = lines.into_iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        format!("NATS/1.0\r\n{lines}\r\n")
    });
    prop_oneof![3 => Just(String::new()), 2 => block, 1 => ".{0,20}"]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn nothing_that_arrives_makes_it_panic(
        messages in prop::collection::vec((prop::sample::select(SUBJECTS.to_vec()), headers(), payload(), any::<bool>(), 0..3_000_000_000i64), 1..40)
    ) {
        let mut rig = Rig::new();
        rig.api("STREAM.CREATE.S", r#"{"name":"S","subjects":["s.>"],"allow_direct":true,"allow_rollup_hdrs":true,"allow_msg_ttl":true,"allow_atomic":true,"allow_msg_schedules":true}"#);
        rig.api("STREAM.CREATE.T", r#"{"name":"T","sources":[{"name":"S","subject_transforms":[{"src":"s.*","dest":"t.$1"}]}]}"#);
        rig.ask("s.a", "1");
        rig.api("CONSUMER.CREATE.S.c", r#"{"stream_name":"S","config":{"durable_name":"c","ack_policy":"explicit"}}"#);
        for (subject, headers, payload, answered, pause) in &messages {
            rig.send(&Incoming {
                subject: subject.as_bytes(),
                reply: if *answered { b"_I" } else { b"" },
                headers: headers.as_bytes(),
                payload: payload.as_bytes(),
            });
            rig.bus.take();
            rig.pass(*pause);
        }
        rig.restart();
        // What the last pause brought.
        rig.bus.take();
        rig.api("STREAM.INFO.S", "");
        rig.api("CONSUMER.LIST.S", "");
    }
}
