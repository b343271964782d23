//! The language and the settings, from texts in memory. Which texts are valid, and with what meaning, was asked of
//! nats-server 2.15.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::permissions::Rules;

#[derive(Default)]
pub(super) struct Memory {
    files: HashMap<PathBuf, Vec<u8>>,
    pub(super) variables: HashMap<String, String>,
}

impl Outside for Memory {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.files.get(path).cloned().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }

    fn variable(&self, name: &str) -> Option<String> {
        self.variables.get(name).cloned()
    }
}

pub(super) fn memory(text: &str) -> Memory {
    let mut memory = Memory::default();
    memory.files.insert("f".into(), text.into());
    memory
}

/// Everything in a block in one line.
fn show(block: &Block) -> String {
    fn value(out: &mut String, shown: &Value) {
        let _ = match &shown.kind {
            Kind::Text(text) => write!(out, "{text:?}"),
            Kind::Integer { value, .. } => write!(out, "{value}"),
            Kind::Float(number) => write!(out, "{number:?}"),
            Kind::Bool(on) => write!(out, "{on}"),
            Kind::List(values) => {
                out.push('[');
                values.iter().for_each(|inner| {
                    value(out, inner);
                    out.push(' ');
                });
                out.push(']');
                Ok(())
            }
            Kind::Block(block) => write!(out, "{{{}}}", show(block)),
        };
    }
    let mut out = String::new();
    for entry in &block.entries {
        let _ = write!(out, "{}=", entry.key);
        value(&mut out, &entry.value);
        out.push(' ');
    }
    out
}

fn parsed(text: &str) -> String {
    show(&parse(Path::new("f"), &memory(text)).unwrap_or_else(|error| panic!("{text}: {error}")))
}

fn refused(text: &str) -> String {
    match parse(Path::new("f"), &memory(text)) {
        Ok(block) => panic!("{text}: {}", show(&block)),
        Err(error) => error.to_string(),
    }
}

pub(super) fn settings(text: &str) -> Settings {
    Settings::load(Path::new("f"), &memory(text)).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn invalid(text: &str) -> String {
    match Settings::load(Path::new("f"), &memory(text)) {
        Ok(settings) => panic!("{text}: {settings:?}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_setting_may_be_written_in_many_ways() {
    for text in [
        "port: 4222",
        "port = 4222",
        "port 4222",
        "port=4222",
        "port:4222",
        "  port :\t4222  # comment",
        "// comment\nport: 4222 // comment",
        "port: 4222;",
        "{\"port\": 4222}",
        "'port': 4222\n\n",
        "port\n4222",
        "\u{feff}port: 4222\r\n",
    ] {
        assert_eq!(parsed(text), "port=4222 ", "{text:?}");
    }
    assert_eq!(parsed("a: 1, b: 2; c: 3\nd: 4"), "a=1 b=2 c=3 d=4 ");
    assert_eq!(parsed("  # nothing\n"), "");
}

#[test]
fn values_have_types() {
    let text = "a: x-y.z:1/2\nb: \"q\\t\\x41\\\"\"\nc: 'raw\\n'\nd: 8MB\ne: -1\nf: 0.5\ng: Yes\nh: OFF\ni: 127.0.0.1:4222\nj: 2s\nk: http://h/p#f";
    assert_eq!(
        parsed(text),
        "a=\"x-y.z:1/2\" b=\"q\\tA\\\"\" c=\"raw\\\\n\" d=8388608 e=-1 f=0.5 g=true h=false \
         i=\"127.0.0.1:4222\" j=\"2s\" k=\"http://h/p#f\" "
    );
    assert_eq!(parsed("a: (\none\n two)\n)\nb: 1"), "a=\"\\none\\n two)\\n\" b=1 ");
}

#[test]
fn blocks_and_lists_nest() {
    assert_eq!(parsed("a {b: 1, c {d: [1, 2 # x\n 3\n {e: f} ]}}"), "a={b=1 c={d=[1 2 3 {e=\"f\" } ] } } ");
    assert_eq!(parsed("a: []\nb {}\nc = [\n]\n"), "a=[] b={} c=[] ");
    assert_eq!(parsed("{\"a\": {\"b\": [true, \"x\"]}, \"c\": 1}"), "a={b=[true \"x\" ] } c=1 ");
}

#[test]
fn variables_come_from_earlier_keys_and_the_environment() {
    assert_eq!(parsed("A: 12\nport: $A"), "A=12 port=12 ");
    assert_eq!(parsed("A: 1\nb {A: 2, c: $A, d {e: $A}}\nf: $A"), "A=1 b={A=2 c=2 d={e=2 } } f=1 ");
    assert_eq!(parsed("a: \"$A\"\nb: $2a$11$xyz"), "a=\"$A\" b=\"$2a$11$xyz\" ");
    let mut outside = memory("a: $NUM, b: $WORD, c: $ODD, d: $LIST, e: $SELF, f: $BROKEN");
    for (name, value) in [
        ("NUM", "64KB"),
        ("WORD", "x"),
        ("ODD", "two words"),
        ("LIST", "[1, 2]"),
        ("SELF", "$SELF"),
        ("BROKEN", "{["),
    ] {
        outside.variables.insert(name.into(), value.into());
    }
    assert_eq!(
        show(&parse(Path::new("f"), &outside).unwrap()),
        "a=65536 b=\"x\" c=\"two words\" d=[1 2 ] e=\"$SELF\" f=\"{[\" "
    );
    assert!(refused("a: $B\nB: 1").contains("f:1:4: $B is not set"));
}

#[test]
fn what_a_variable_names_is_a_text_where_a_text_is_wanted() {
    let secret = |text: &str, value: &str| {
        let mut outside = memory(text);
        outside.variables.insert("SECRET".into(), value.into());
        let read = Settings::load(Path::new("f"), &outside).unwrap_or_else(|error| panic!("{text}: {error}"));
        read.identities[0].credential.clone()
    };
    for value in ["1234", "1.50", "12k", "true", "[a]", "007", "99999999999999999999", "two words"] {
        assert_eq!(
            secret("authorization {token: $SECRET}", value),
            Credential::Token(value.into()),
            "{value}"
        );
        assert_eq!(
            secret("PASSWORD: $SECRET\nauthorization {user: u, password: $PASSWORD}", value),
            Credential::Password { user: "u".into(), password: value.into() },
            "{value}"
        );
    }
    // A key of the file is one too, and quotes leave a dollar sign what it is.
    assert_eq!(secret("A: 0012\nauthorization {token: $A}", ""), Credential::Token("0012".into()));
    assert_eq!(secret("authorization {token: \"$SECRET\"}", "x"), Credential::Token("$SECRET".into()));
    assert_eq!(
        settings("A: 12\nwebsocket {port: 1, no_tls: true, origin: $A}").websocket.unwrap().allowed_origins,
        ["12"]
    );
    // It still is what it looks like elsewhere.
    assert_eq!(settings("A: 12\nport: $A").port, Some(12));
    let listed = invalid("A: [1]\nserver_name: $A");
    assert!(listed.contains("this is a list") && !listed.contains("quotes"), "{listed}");
}

#[test]
fn a_variable_does_not_excuse_a_setting_that_is_not_supported() {
    for text in [
        "https_port: 18443\nhttp_port: $https_port",
        "cluster {port: 6222}\nA: $cluster\nB: $A",
        "logfile_size_limit: 5\nmax_subs: $logfile_size_limit",
        "tls {cert_file: c, key_file: k, min_version: 1, timeout: $min_version}",
        "accounts {A {mappings: x, users: [{user: $mappings, password: p}]}}",
    ] {
        assert!(invalid(text).contains("is not supported: "), "{text}: {}", invalid(text));
    }
}

#[test]
fn the_system_account_is_one_that_is_there() {
    for text in [
        "system_account: S\naccounts {S {users: [{user: a, password: b}]}}",
        "system_account: S\naccounts {S {}}",
        "system_account: S\naccounts [S, T]",
        "system_account: \"$SYS\"",
        "system_account: \"$G\"",
    ] {
        assert!(settings(text).system_account.is_some(), "{text}");
    }
    for text in ["system_account: S", "system: S\naccounts {T {}}"] {
        assert!(invalid(text).contains("there is no account \"S\" under accounts"), "{text}");
    }
}

#[test]
fn includes_are_read_in_place_and_relative_to_the_file() {
    let mut outside = memory("a: 1\ninclude sub/one.conf\nz: $deep\nu { include 'sub/two.conf' }");
    outside.files.insert("sub/one.conf".into(), b"b: 2, include \"two.conf\"\n".to_vec());
    outside.files.insert("sub/two.conf".into(), b"deep: 3\n".to_vec());
    assert_eq!(show(&parse(Path::new("f"), &outside).unwrap()), "a=1 b=2 deep=3 z=3 u={deep=3 } ");
}

#[test]
fn includes_end() {
    assert!(refused("a: 1\ninclude f").contains("f:2:9: f includes itself"));
    assert!(refused("include nope").contains("f:1:9: cannot read nope: "));
    let mut outside = Memory::default();
    for n in 0..40 {
        let text = format!("include {}\ninclude {}", n + 1, n + 1);
        outside.files.insert(n.to_string().into(), text.into());
    }
    let error = parse(Path::new("0"), &outside).unwrap_err().to_string();
    assert!(error.contains("too many includes"), "{error}");
    // Not deep, but wide: each of five files includes the next one ten times.
    let mut outside = Memory::default();
    for n in 0..5 {
        let text = format!("include {}\n", n + 1).repeat(10);
        outside.files.insert(n.to_string().into(), text.into());
    }
    outside.files.insert("5".into(), b"a: 1".to_vec());
    let error = parse(Path::new("0"), &outside).unwrap_err().to_string();
    assert!(error.contains("too many includes"), "{error}");
}

#[test]
fn what_grows_without_bound_is_refused() {
    let deep = "a: ".to_owned() + &"[".repeat(100_000);
    assert!(refused(&deep).contains("within each other"));
    let deep = "a {".repeat(100_000);
    assert!(refused(&deep).contains("within each other"));
    let mut laughs = String::from("a0: [x, x, x, x, x, x, x, x, x, x]\n");
    for n in 1..20 {
        let _ = writeln!(laughs, "a{n}: [{}]", format!("$a{}, ", n - 1).repeat(10));
    }
    assert!(refused(&laughs).contains("values"));
}

#[test]
fn syntax_errors_have_a_place_and_a_remedy() {
    for (text, says) in [
        ("= 3", "f:1:1: a setting's name should stand here, but it is '='"),
        ("port:\n 4222", "f:1:6: the value of \"port\" must begin on the line"),
        ("port", "f:1:5: \"port\" has no value"),
        ("a { port }", "f:1:10: \"port\" has no value"),
        ("host: a port: 4", "f:1:9: the line should end here, but 'p' follows"),
        ("max_payload: 1 MB", "f:1:16: the line should end here"),
        ("a: [1 2]", "f:1:7: a comma, a new line or ]"),
        ("a: [1, 2", "f:1:4: this list is not closed"),
        ("a: [1 }", "a comma, a new line or ]"),
        ("a {\nb: 1\n", "f:1:4: this block is not closed"),
        ("a: 1 }", "f:1:6: the line should end here"),
        ("}", "f:1:1: this } closes nothing"),
        ("a: \"x", "f:1:4: this quote is not closed"),
        ("a: (x", "f:1:4: this parenthesis is not closed"),
        ("a: \"\\q\"", "f:1:5: this escape is not known"),
        ("a: C:\\x", "f:1:6: \\x needs two hexadecimal digits"),
        ("a: 99999999999999999999", "f:1:4: 99999999999999999999 is too large"),
        ("{a: 1} b: 2", "f:1:8: the file ended with its }"),
        ("a: ]", "f:1:4: \"a\" has no value"),
    ] {
        let error = refused(text);
        assert!(error.contains(says), "{text:?}: {error}");
    }
    let outside = Memory { files: [("f".into(), vec![0xff, 0xfe])].into(), ..Memory::default() };
    assert!(parse(Path::new("f"), &outside).unwrap_err().to_string().contains("not UTF-8"));
}

#[test]
fn a_whole_configuration_is_read() {
    let read = settings(
        "listen: localhost:4111\nserver_name: s1\nmax_payload: 128KB\nmax_pending: 10MB\nmax_connections: 100\n\
         max_subscriptions: -1\nmax_control_line: 2KB\nping_interval: \"20s\"\nping_max: 3\nwrite_deadline: \"1500ms\"\n\
         http: localhost:8111\npid_file: /p\nports_file_dir: /d\nlog_file: /l\ndebug: true\nlogtime: false\n\
         lame_duck_duration: \"30s\"\nlame_duck_grace_period: \"0s\"\n\
         authorization {timeout: 1, users: [{user: a, password: b}]}\nno_auth_user: a\n",
    );
    assert_eq!((read.host.as_deref(), read.port), (Some("localhost"), Some(4111)));
    assert_eq!(read.limits.payload_bytes_max, 128 << 10);
    assert_eq!(read.limits.pending_bytes_max, 10 << 20);
    assert_eq!((read.limits.connections_max, read.limits.subscriptions_max), (100, usize::MAX));
    assert_eq!(read.limits.control_line_bytes_max, 2048);
    assert_eq!((read.limits.ping_interval, read.limits.pings_out_max), (Duration::from_secs(20), 3));
    assert_eq!(read.limits.write_deadline, Duration::from_millis(1500));
    assert_eq!(read.limits.auth_timeout, Duration::from_secs(1));
    assert_eq!(read.monitor, Some(MonitorSettings { host: Some("localhost".into()), port: 8111 }));
    assert_eq!(
        (read.lame_duck_over, read.lame_duck_grace),
        (Some(Duration::from_secs(30)), Some(Duration::ZERO))
    );
    assert!(read.log.debug && read.log.time == Some(false) && read.log.file == Some("/l".into()));
    assert_eq!(read.no_auth_user.as_deref(), Some("a"));
    assert_eq!(read.identities.len(), 1);
    assert!(read.warnings.is_empty());
}

#[test]
fn addresses_and_ports() {
    for (text, host, port) in [
        ("port: -1", None, Some(0)),
        ("listen: 4333", None, Some(4333)),
        ("listen: \":4333\"", None, Some(4333)),
        ("listen: \"[::1]:4333\"", Some("::1"), Some(4333)),
        ("listen: \"h:-1\"", Some("h"), Some(0)),
        ("net: h, port: 1", Some("h"), Some(1)),
        ("LISTEN: h:1\nPORT: 2", Some("h"), Some(2)),
        // 0 is the default and only -1 any free port.
        ("port: 0", None, None),
        ("listen: 0", None, None),
        ("listen: \"h:0\"", Some("h"), None),
        ("listen: h:1\nport: 0", Some("h"), None),
    ] {
        let read = settings(text);
        assert_eq!((read.host.as_deref(), read.port), (host, port), "{text}");
    }
    assert_eq!(settings("http_port: 0").monitor, None);
    assert_eq!(settings("http: 0").monitor, None);
    assert_eq!(settings("http: \"h:0\"").monitor, None);
    let anywhere = |host: Option<&str>| Some(MonitorSettings { host: host.map(Into::into), port: 0 });
    assert_eq!(settings("monitor_port: -1").monitor, anywhere(None));
    assert_eq!(settings("http: -1").monitor, anywhere(None));
    assert_eq!(settings("http: \"h:-1\"").monitor, anywhere(Some("h")));
    for off in ["port: 0", "listen: \"h:0\"", "port: 0, no_tls: true", "listen: \"h:1\", port: 0"] {
        assert_eq!(settings(&format!("websocket {{{off}}}")).websocket, None, "{off}");
    }
    let websocket = settings("websocket {listen: \"h:-1\", no_tls: true}").websocket.unwrap();
    assert_eq!((websocket.host.as_deref(), websocket.port), (Some("h"), 0));
}

#[test]
fn the_last_of_two_counts_with_a_warning() {
    let read = settings("port: 1\nhost: h\nport: 2");
    assert_eq!(read.port, Some(2));
    assert_eq!(read.warnings.len(), 1);
    assert_eq!(read.warnings[0].to_string(), "f:1:1: port has no effect: it is set again at f:3:1");
}

#[test]
fn whatever_is_not_a_setting_is_told_with_all_the_rest() {
    let error =
        invalid("prot: 1\nhost: 5\nmax_paylod: 1\nfoo: bar\ntls {cert_fil: x}\nUSED: 3\nping_max: $USED");
    let lines: Vec<&str> = error.lines().collect();
    assert_eq!(
        lines,
        [
            "f:1:1: prot is not a setting; did you mean port?",
            "f:2:7: host: a text is expected, this is a number; put it in quotes if it is meant as a text",
            "f:3:1: max_paylod is not a setting; did you mean max_payload?",
            "f:4:1: foo is not a setting; check its spelling and the block it stands in, or remove it",
            "f:5:1: tls.cert_file and tls.key_file are both needed; give both, or remove the block to serve in plain text",
            "f:5:6: tls.cert_fil is not a setting; did you mean cert_file?",
        ]
    );
}

#[test]
fn settings_that_need_nats_server_say_why() {
    for (text, says) in [
        ("cluster {listen: h:1}", "cluster is not supported: this server is one node"),
        ("leafnodes {}", "one node"),
        ("mqtt {port: 1}", "MQTT"),
        ("operator: eyJ", "operator mode"),
        ("https_port: 1", "plain HTTP"),
        ("jetstream {key: secret}", "jetstream.key is not supported: messages are not encrypted on disk"),
        (
            "jetstream {limits {batch {max_msgs: 5}}}",
            "jetstream.limits.batch is not supported: atomic batches",
        ),
        ("jetstream {cipher: aes}", "jetstream.cipher is not supported"),
        ("jetstream {tpm {}}", "jetstream.tpm is not supported"),
        ("default_js_domain {A: hub}", "one node"),
        ("tls {cert_file: a, key_file: b, cipher_suites: [x]}", "tls.cipher_suites is not supported"),
        ("websocket {port: 1, tls {cert_file: a, key_file: b, min_version: x}}", "cannot be narrowed"),
        ("websocket {port: 1, no_tls: true, compression: true}", "not compressed"),
        ("accounts {A {exports: []}}", "accounts.*.exports is not supported: accounts are isolated"),
        ("authorization {auth_callout {}}", "auth callout"),
    ] {
        let error = invalid(text);
        assert!(error.contains(says), "{text}: {error}");
    }
}

#[test]
fn wrong_values_are_explained() {
    for (text, says) in [
        ("port: abc", "f:1:7: port: a whole number is expected, this is a text"),
        ("port: 70000", "port: 70000 is out of range, -1 to 65535"),
        ("listen: 127.0.0.1", "listen: an address HOST:PORT is expected"),
        ("listen: \"a:b:c\"", "listen: an address"),
        ("max_payload: \"1MB\"", "a whole number is expected"),
        ("max_payload: 3GB", "out of range"),
        ("max_payload: 100MB", "more than max_pending"),
        ("max_control_line: 10", "at least 256"),
        ("max_control_line: 2MB", "at most 1048576 bytes"),
        ("ping_interval: \"5x\"", "\"x\" is no unit of time"),
        ("ping_interval: true", "a time such as \"2s\" is expected"),
        ("debug: 1", "true or false is expected, this is a number"),
        ("server_name: \"a b\"", "no spaces"),
        ("lame_duck_duration: \"1s\"", "at least \"30s\""),
        ("ping_interval: 9999999999", "at most 100 years"),
        ("authorization { token: x, timeout: 9999999999.5 }", "at most 100 years"),
        ("lame_duck_grace_period: \"5000000000000000h\"", "at most 100 years"),
        ("authorization: x", "a block {...} is expected"),
        ("authorization {user: a}", "a user without a password"),
        ("authorization {password: a}", "a password without a user"),
        ("authorization {user: a, password: b, token: c}", "exclude each other"),
        ("authorization {token: a, users: []}", "exclude each other"),
        ("authorization {token: \"\"}", "authorization.token: it is empty"),
        ("authorization {token: 123}", "put it in quotes"),
        ("authorization {timeout: 0}", "longer than nothing"),
        ("authorization {users: [a]}", "users: a block"),
        ("authorization {users: [{user: a}]}", "user \"a\" has no password"),
        ("authorization {users: [{nkey: UABC}]}", "not a public user nkey"),
        ("authorization {users: [{user: a, password: b}, {user: a, password: c}]}", "\"a\" is listed twice"),
        (
            "authorization {users: [{user: a, password: $2a$11$short}]}",
            "f:1:24: identity a: no usable bcrypt hash",
        ),
        (
            "authorization {users: [{user: a, password: b, permissions {publish: a..b}}]}",
            "permission \"a..b\"",
        ),
        (
            "authorization {users: [{user: a, password: b, permissions {publish: \"a q\"}}]}",
            "permission \"a q\"",
        ),
        ("authorization {users: [{user: a, password: b, permissions {publish: {allow: []}}}]}", "ambiguous"),
        ("jetstream: maybe", "true, false, enabled, disabled or a block"),
        ("jetstream: 1", "true, false, enabled, disabled or a block"),
        ("jetstream {enabled: 1}", "jetstream.enabled: true or false is expected"),
        ("jetstream {dir: x}", "jetstream.dir is not a setting"),
        ("jetstream {max_file_stor: 1}", "did you mean max_file_store?"),
        ("jetstream {max_mem: -5}", "-5 is no size"),
        ("jetstream {max_mem: many}", "a size is expected, such as 64MB"),
        ("jetstream {domain: \"a b\"}", "cannot be a domain"),
        ("jetstream {domain: API}", "cannot be a domain"),
        ("jetstream {domain: \"x.>\"}", "cannot be a domain"),
        ("jetstream {durability: never}", "group (an acknowledged message survives a power cut)"),
        ("jetstream {durability: process, sync_interval: always}", "always contradicts the durability"),
        ("jetstream {sync_interval: never}", "write a time as in"),
        ("jetstream {limits {max_streams: 5}}", "jetstream.limits.max_streams is not a setting"),
        ("jetstream {limits {duplicate_window: x}}", "write a time as in"),
        ("store_dir: /x\njetstream {store_dir: /y}", "it is set already at f:1:1; keep one of them"),
        ("accounts {A {jetstream: maybe}}", "true, false, enabled, disabled or a block"),
        ("accounts {A {jetstream: {max_disks: 5}}}", "did you mean max_disk?"),
        (
            "accounts {A {jetstream: true}, B {jetstream: true}}",
            "A and B both have jetstream, but only one account can",
        ),
        ("no_auth_user: x", "there is no user \"x\""),
        ("accounts {\"a.b\" {}}", "cannot be an account"),
        ("tls {cert_file: a, key_file: b, verify: true}", "tls.verify needs tls.ca_file"),
        ("tls {cert_file: a, key_file: b, handshake_first: soon}", "true, false, auto or a time"),
        ("websocket {no_tls: true}", "websocket.port is needed"),
        ("websocket {port: 1}", "websocket.tls is needed"),
    ] {
        let error = invalid(text);
        assert!(error.contains(says), "{text}: {error}");
        assert!(error.starts_with("f:") || error.starts_with("f: "), "{error}");
    }
}

#[test]
fn tls_and_web_sockets() {
    let read = settings(
        "tls {cert_file: c, key_file: k, ca_file: a, verify: true, timeout: 2, handshake_first: 300ms}\n\
         websocket {listen: h:8443, tls {cert_file: wc, key_file: wk}, allowed_origins: [\"http://a\"], same_origin: true}",
    );
    let tls = read.tls.unwrap();
    assert_eq!((tls.cert_file, tls.ca_file, tls.verify), ("c".into(), Some("a".into()), true));
    assert_eq!(
        (tls.timeout, tls.handshake),
        (Some(Duration::from_secs(2)), Handshake::Auto(Duration::from_millis(300)))
    );
    let websocket = read.websocket.unwrap();
    assert_eq!((websocket.host.as_deref(), websocket.port, websocket.same_origin), (Some("h"), 8443, true));
    assert_eq!(websocket.tls.unwrap().cert_file, PathBuf::from("wc"));
    for (text, handshake) in [
        ("true", Handshake::First),
        ("false", Handshake::AfterInfo),
        ("auto", Handshake::Auto(Duration::from_millis(50))),
    ] {
        let read = settings(&format!("tls {{cert_file: c, key_file: k, handshake_first: {text}}}"));
        assert_eq!(read.tls.unwrap().handshake, handshake);
    }
}

#[test]
fn the_example_of_the_guide_is_valid() {
    let guide = include_str!("../../../../docs/guide/broker.md");
    let example = guide.split("```text\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let mut outside = memory(example);
    outside.variables.insert("APP_PASSWORD".into(), "x".into());
    let read = Settings::load(Path::new("f"), &outside).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((read.identities.len(), read.warnings.len()), (3, 0));
    assert_eq!(read.identities[2].permissions.subscribe, Rules::allow(["_INBOX.>"]));
}

#[test]
fn secrets_do_not_show() {
    let text =
        "authorization {users: [{user: u, password: hush1}]}\naccounts {A {users: [{user: v, pass: hush2}]}}";
    let block = parse(Path::new("f"), &memory(text)).unwrap();
    assert!(!format!("{block:?}").contains("hush"));
    assert!(!format!("{:?}", settings(text)).contains("hush"));
    assert!(!invalid("authorization {user: u, password: [hush]}").contains("hush"));
    assert!(!invalid("authorization {user: u, passwort: hush}").contains("hush"));
}

proptest! {
    #[test]
    fn garbage_never_panics(text in "\\PC{0,200}") {
        let _ = Settings::load(Path::new("f"), &memory(&text));
    }

    #[test]
    fn garbage_made_of_the_language_never_panics(
        words in prop::collection::vec(
            prop::sample::select(vec![
                "{", "}", "[", "]", "(", "\n)\n", "\"", "'", ":", "=", ",", ";", "\n", " ", "#", "//", "$", "$a", "\\",
                "\\x4", "a", "include", "f", "port", "tls", "users", "authorization", "permissions", "accounts",
                "websocket", "allow_responses", "durability", "limits", "store_dir", "1", "-1", "1.5", "2s", "64MB", "true", "é", "jetstream",
            ]),
            0..60,
        )
    ) {
        let _ = Settings::load(Path::new("f"), &memory(&words.concat()));
    }
}
