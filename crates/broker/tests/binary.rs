//! The program as its users meet it: a process with flags, a configuration file, signals and a log.
#![cfg(test)]
#![cfg(all(unix, feature = "bin"))]

mod common;
#[path = "binary/tls.rs"]
mod tls;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Instant;

use common::{DEADLINE, Raw, eventually};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_ostler-broker");

/// The program under its name, run to its end.
fn run(arguments: &[&str]) -> Output {
    Command::new(PROGRAM).args(arguments).stdin(Stdio::null()).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A server in a process of its own, on free ports, with its files in a directory of its own.
struct Running {
    child: Child,
    directory: TempDir,
    name: &'static str,
}

impl Running {
    /// Starts it with a configuration, which may be empty, and waits until it is ready.
    fn start(configuration: &str, flags: &[&str]) -> Self {
        Self::start_as(
            "ostler-broker",
            Path::new(PROGRAM),
            tempfile::tempdir().unwrap(),
            configuration,
            flags,
        )
    }

    fn start_as(
        name: &'static str,
        program: &Path,
        directory: TempDir,
        configuration: &str,
        flags: &[&str],
    ) -> Self {
        let at = |file: &str| directory.path().join(file);
        fs::write(at("broker.conf"), configuration).unwrap();
        let child = Command::new(program)
            .args(["-a", "127.0.0.1", "-p", "-1", "-c"])
            .arg(at("broker.conf"))
            .arg("-l")
            .arg(at("log"))
            .arg("-P")
            .arg(at("pid"))
            .arg("--ports_file_dir")
            .arg(directory.path())
            .args(flags)
            .env("BROKER_TEST_SECRET", "from-outside")
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut running = Self { child, directory, name };
        eventually("the server is ready", || {
            let ended = running.child.try_wait().unwrap();
            assert!(ended.is_none(), "it ended at once: {}", running.log());
            running.log().contains("Server is ready")
        });
        running
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    fn waits_for(&self, line: &str) {
        eventually(line, || self.log().contains(line));
    }

    fn ports_file(&self) -> PathBuf {
        self.directory.path().join(format!("{}_{}.ports", self.name, self.child.id()))
    }

    /// The address of this kind in the ports file.
    fn url(&self, kind: &str) -> String {
        let ports: serde_json::Value = serde_json::from_slice(&fs::read(self.ports_file()).unwrap()).unwrap();
        ports[kind][0].as_str().unwrap_or_else(|| panic!("no {kind} in {ports}")).to_owned()
    }

    fn address(&self, kind: &str) -> SocketAddr {
        self.url(kind).split_once("://").unwrap().1.parse().unwrap()
    }

    fn client(&self) -> SocketAddr {
        self.address("nats")
    }

    /// Writes another configuration, has it loaded, and waits for this line.
    fn reload(&self, configuration: &str, line: &str) {
        fs::write(self.directory.path().join("broker.conf"), configuration).unwrap();
        let seen = self.log().matches(line).count();
        self.signal(Signal::HUP);
        eventually(line, || self.log().matches(line).count() > seen);
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
    }

    fn end(&mut self) -> ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(started.elapsed() < DEADLINE * 2, "it does not end: {}", self.log());
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the server says to a client that logs in: PONG or an error.
fn login(address: SocketAddr, credentials: &str) -> String {
    let mut client = Raw::connect_with(address, &format!("\"verbose\":false,{credentials}"));
    client.send("PING\r\n");
    client.line()
}

#[test]
fn the_version_is_told_as_by_nats_server() {
    for flag in ["-v", "--version", "version"] {
        let output = run(&[flag]);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && text.starts_with("nats-server: v2."), "{text}");
    }
    let help = String::from_utf8(run(&["--help"]).stdout).unwrap();
    assert!(help.contains("--ports_file_dir") && help.contains("Usage: ostler-broker"), "{help}");
    assert!(String::from_utf8(run(&["--help_tls"]).stdout).unwrap().contains("--tlscert"));
}

#[test]
fn wrong_flags_end_with_1_and_the_reason() {
    for (arguments, says) in [
        (vec!["--nonsense"], "flag provided but not defined: -nonsense"),
        (vec!["-p", "x"], "invalid value \"x\""),
        (vec!["--cluster", "nats://127.0.0.1:1"], "this server is one node"),
        (vec!["-js", "--durability", "mostly"], "group, process or async"),
        (vec!["-js", "-sd"], "flag needs an argument: -sd"),
        (vec!["-js", "-sd", "/dev/null"], "/dev/null/ostler"),
        (vec!["--user", "a"], "--user needs --pass"),
        (vec!["--pass", "a"], "--pass needs --user"),
        (vec!["--auth", "a", "--user", "b", "--pass", "c"], "exclude each other"),
        (vec!["--tls"], "--tls needs --tlscert and --tlskey"),
        (vec!["--tlscert", "x"], "need --tls or --tlsverify"),
        (vec!["-a", "no such host"], "cannot listen on host"),
        (vec!["-c", "/nonexistent.conf"], "cannot read /nonexistent.conf"),
        (vec!["-n", "a b"], "a server's name has no spaces"),
        (vec!["-n", ""], "a server's name cannot be empty"),
        (vec!["--signal", "dance=1"], "unknown signal \"dance\""),
        (vec!["--signal", "quit=/nonexistent.pid"], "no process id"),
        (vec!["--signal", "quit=0"], "greater than 0"),
        (vec!["--signal", "quit=2147483646"], "signal \"quit\" to process 2147483646"),
    ] {
        let output = run(&arguments);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {text}");
        assert!(text.contains(says), "{arguments:?}: {text}");
    }
}

#[test]
fn an_argument_that_is_no_text_is_refused() {
    use std::os::unix::ffi::OsStrExt as _;
    let odd = std::ffi::OsStr::from_bytes(b"\xff.conf");
    let output = Command::new(PROGRAM).arg("-c").arg(odd).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains("\\xFF.conf\" is not UTF-8"), "{}", stderr(&output));
}

#[test]
fn a_reader_that_leaves_early_is_no_failure() {
    for flag in ["-h", "--help_tls", "-v"] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = Command::new(PROGRAM).arg(flag).stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
        let output = output.wait_with_output().unwrap();
        assert_eq!((output.status.code(), stderr(&output)), (Some(0), String::new()), "{flag}");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_place_that_takes_no_text_is_told() {
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = Command::new(PROGRAM).arg("-h").stdout(full).stderr(Stdio::piped()).spawn().unwrap();
    let output = output.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("cannot write"), "{}", stderr(&output));
}

#[test]
fn a_bad_configuration_ends_with_1_and_every_problem() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("bad.conf");
    let path = file.to_str().unwrap();
    for (text, says) in [
        ("port: abc\nfoo: 1\n", ":1:7: port: a whole number is expected"),
        ("port: abc\nfoo: 1\n", ":2:1: foo is not a setting"),
        ("cluster {}\n", ":1:1: cluster is not supported: this server is one node"),
        ("jetstream {key: hush}\n", ":1:12: jetstream.key is not supported: messages are not encrypted"),
        ("tls {cert_file: \"/none.pem\", key_file: \"/none.pem\"}\n", "/none.pem"),
        ("include \"none.conf\"\n", "none.conf"),
        ("max_payload: 100MB\n", "max_pending"),
        ("allow_non_tls: true\n", "there is no tls"),
        ("system_account: NOPE\n", "there is no account \"NOPE\""),
    ] {
        fs::write(&file, text).unwrap();
        for flags in [vec!["-c", path], vec!["-t", "-c", path]] {
            let output = run(&flags);
            let said = stderr(&output);
            assert_eq!(output.status.code(), Some(1), "{text}: {said}");
            assert!(said.contains(says), "{text}: {said}");
        }
    }
    fs::write(&file, "port: 4222 # fine\nport: 4223\njetstream {}\n").unwrap();
    let output = run(&["-t", "-c", path]);
    assert!(output.status.success() && stderr(&output).contains("is valid"), "{}", stderr(&output));
    assert!(stderr(&output).contains("warning:"), "{}", stderr(&output));
}

#[test]
fn it_says_where_it_listens_and_who_it_is() {
    let mut running =
        Running::start("server_name: from-file\nmax_payload: 64KB\n", &["-n", "from-flag", "-sd", "x"]);
    let pid = fs::read_to_string(running.directory.path().join("pid")).unwrap();
    assert_eq!(pid, running.child.id().to_string(), "no newline");
    let (_raw, info) = Raw::open(running.client());
    assert!(
        info.contains("\"server_name\":\"from-flag\"") && info.contains("\"max_payload\":65536"),
        "{info}"
    );
    let address = running.client();
    for line in
        ["[INF] Starting ostler-broker", &format!("[INF] Listening for client connections on {address}")]
    {
        assert!(running.log().contains(line), "{}", running.log());
    }
    let log = running.log();
    let first = log.lines().next().unwrap();
    let (stamp, _) = first.split_once(" [INF] ").unwrap();
    let date = stamp.strip_prefix(&format!("[{pid}] ")).unwrap();
    assert_eq!(date.len(), "2026/11/21 00:00:00.000000".len(), "{first}");

    running.signal(Signal::TERM);
    assert_eq!(running.end().code(), Some(0));
    assert!(running.log().ends_with("[INF] Server Exiting..\n"), "{}", running.log());
    assert!(!running.ports_file().exists(), "it is removed at the end");
}

#[test]
fn it_works_under_the_name_of_nats_server() {
    let directory = tempfile::tempdir().unwrap();
    let link = directory.path().join("nats-server");
    std::os::unix::fs::symlink(PROGRAM, &link).unwrap();
    let version = Command::new(&link).arg("-v").output().unwrap();
    let version = String::from_utf8(version.stdout).unwrap();
    assert_eq!(version.lines().count(), 1, "{version}");
    let refused = Command::new(&link).arg("--cluster=x").output().unwrap();
    assert!(stderr(&refused).starts_with("nats-server: flag -cluster"), "{}", stderr(&refused));

    let mut running = Running::start_as("nats-server", &link, directory, "", &["-T=false"]);
    assert!(running.url("nats").starts_with("nats://127.0.0.1:"));
    assert_eq!(
        running.log().lines().next(),
        Some(&*format!("[{}] [INF] Starting nats-server", running.child.id()))
    );
    running.signal(Signal::INT);
    assert!(running.end().success());
}

#[test]
fn without_users_everybody_is_let_in_with_a_warning_beyond_loopback() {
    let running = Running::start("", &["-a", "0.0.0.0"]);
    running.waits_for("[WRN] 0.0.0.0:");
    let mut client = Raw::connect(SocketAddr::from(([127, 0, 0, 1], running.client().port())));
    client.sync();
    assert!(!Running::start("", &[]).log().contains("[WRN]"));
}

#[test]
fn users_come_from_flags_and_from_the_file() {
    let running = Running::start("", &["--user", "u", "--pass", "p"]);
    assert_eq!(login(running.client(), r#""user":"u","pass":"p""#), "PONG");
    assert_eq!(login(running.client(), r#""user":"u","pass":"x""#), "-ERR 'Authorization Violation'");
    assert_eq!(login(running.client(), r#""name":"nobody""#), "-ERR 'Authorization Violation'");
    let running = Running::start("authorization {token: in-file}", &["--auth", "on-line"]);
    assert_eq!(login(running.client(), r#""auth_token":"on-line""#), "PONG");
    assert_eq!(login(running.client(), r#""auth_token":"in-file""#), "-ERR 'Authorization Violation'");
    let running = Running::start("authorization {user: a, password: $BROKER_TEST_SECRET}", &[]);
    assert_eq!(login(running.client(), r#""user":"a","pass":"from-outside""#), "PONG");
    assert!(!running.log().contains("from-outside"));
}

#[test]
fn permissions_accounts_and_guests_are_as_configured() {
    let running = Running::start(
        "authorization {users: [{user: a, password: p, permissions {publish: \"a.>\", subscribe: {deny: \"s.>\"}}}]}\n\
         accounts {\n  B {users: [{user: b, password: p}]}\n  $SYS {users: [{user: sys, password: p}]}\n}\n\
         no_auth_user: a\n",
        &[],
    );
    let mut guest = Raw::connect(running.client());
    guest.send("PUB b 0\r\n\r\nSUB s.x 1\r\nSUB > 2\r\n");
    assert_eq!(guest.line(), "-ERR 'Permissions Violation for Publish to \"b\"'");
    assert_eq!(guest.line(), "-ERR 'Permissions Violation for Subscription to \"s.x\"'");
    guest.sync();
    // The other account hears nothing of it.
    let mut other = Raw::connect_with(running.client(), r#""verbose":false,"user":"b","pass":"p""#);
    other.send("SUB > 1\r\n");
    other.sync();
    guest.send("PUB a.x 2\r\nhi\r\n");
    assert_eq!(guest.message().payload, b"hi");
    other.sync();
}

#[test]
fn only_users_of_the_system_account_leave_the_rest_open() {
    let running = Running::start("accounts {$SYS {users: [{user: sys, password: p}]}}\n", &[]);
    Raw::connect(running.client()).sync();
    assert_eq!(login(running.client(), r#""user":"sys","pass":"x""#), "-ERR 'Authorization Violation'");
}

#[test]
fn a_reload_changes_limits_users_and_verbosity_of_live_connections() {
    let users = |rest: &str| format!("authorization {{users: [{{user: a, password: p}}{rest}]}}\n");
    let running = Running::start(&format!("max_payload: 64KB\n{}", users(", {user: b, password: p}")), &[]);
    let stays = r#""verbose":false,"protocol":1,"user":"a","pass":"p""#;
    let mut stays = Raw::connect_with(running.client(), stays);
    stays.send("PING\r\n");
    assert_eq!(stays.line(), "PONG");
    assert!(stays.line().contains("\"connect_info\":true"));
    let mut goes = Raw::connect_with(running.client(), r#""verbose":false,"user":"b","pass":"p""#);
    goes.sync();

    let changed = format!("max_payload: 32KB\ndebug: true\n{}", users(", {user: c, password: p}"));
    running.reload(&changed, "[INF] Reloaded server configuration");
    let info = stays.line();
    assert!(info.starts_with("INFO ") && info.contains("\"max_payload\":32768"), "{info}");
    assert!(goes.until_closed().contains("-ERR"), "b is no user any more");
    assert_eq!(login(running.client(), r#""user":"c","pass":"p""#), "PONG");
    stays.sync();
}

#[test]
fn a_reload_that_cannot_be_done_changes_nothing() {
    let running = Running::start("max_payload: 64KB\n", &[]);
    let failed = "[ERR] Failed to reload server configuration: ";
    for (text, reason) in [
        ("server_name: other\nmax_payload: 32KB\n", "a reload cannot change server_name"),
        ("max_payload: 32KB\nfoo: 1\n", "foo is not a setting"),
        ("max_payload: 32KB\nauthorization {user: a, password: b}\n", "switching it on or off"),
        ("max_payload: 100MB\n", "max_pending"),
        ("max_payload: [\n", "not closed"),
    ] {
        running.reload(text, failed);
        running.waits_for(reason);
        let (_raw, info) = Raw::open(running.client());
        assert!(info.contains("\"max_payload\":65536"), "{text}: {info}");
    }
}

#[test]
fn a_log_that_was_moved_away_is_opened_again() {
    let running = Running::start("", &[]);
    let log = running.directory.path().join("log");
    fs::rename(&log, running.directory.path().join("log.1")).unwrap();
    running.signal(Signal::USR1);
    eventually("a new log", || running.log().contains("File log re-opened"));
    assert!(!running.log().contains("Server is ready"));
}

#[test]
fn a_lame_duck_without_clients_ends_at_once() {
    let mut running = Running::start("lame_duck_grace_period: \"1h\"\n", &[]);
    running.signal(Signal::USR2);
    assert_eq!(running.end().code(), Some(0));
}

#[test]
fn a_lame_duck_tells_its_clients_and_ends_when_they_left() {
    let mut running = Running::start("lame_duck_grace_period: \"1s\"\nlame_duck_duration: \"30s\"\n", &[]);
    let mut client = Raw::connect_with(running.client(), r#""verbose":false,"protocol":1"#);
    client.send("PING\r\n");
    assert_eq!(client.line(), "PONG");
    assert!(client.line().contains("connect_info"));
    running.signal(Signal::USR2);
    let info = client.line();
    assert!(info.starts_with("INFO ") && info.contains("\"ldm\":true"), "{info}");
    running.waits_for("Entering lame duck mode");
    eventually("no new clients", || TcpStream::connect(running.client()).is_err());
    client.hang_up();
    assert_eq!(running.end().code(), Some(0));
    assert!(running.log().contains("Server Exiting.."));
}

/// A socket into which nothing more fits until somebody reads the other end.
fn full_socket() -> (UnixStream, UnixStream) {
    let (mut full, other) = UnixStream::pair().unwrap();
    full.set_nonblocking(true).unwrap();
    while full.write(&[b'x'; 4096]).is_ok() {}
    while full.write(b"x").is_ok() {}
    full.set_nonblocking(false).unwrap();
    (full, other)
}

#[test]
fn a_log_that_nobody_reads_stops_nobody() {
    let (stderr, mut reader) = full_socket();
    let directory = tempfile::tempdir().unwrap();
    let child = Command::new(PROGRAM)
        .args(["-a", "127.0.0.1", "-p", "-1", "--user", "a", "--pass", "b", "-DV", "--ports_file_dir"])
        .arg(directory.path())
        .stdin(Stdio::null())
        .stderr(OwnedFd::from(stderr))
        .spawn()
        .unwrap();
    let mut running = Running { child, directory, name: "ostler-broker" };
    eventually("the server is ready", || running.ports_file().exists());
    let address = running.client();
    let mut stays = Raw::connect_with(address, r#""verbose":false,"user":"a","pass":"b""#);
    stays.sync();
    for _ in 0..300 {
        assert_eq!(login(address, r#""user":"x","pass":"y""#), "-ERR 'Authorization Violation'");
    }
    stays.sync();
    assert_eq!(login(address, r#""user":"a","pass":"b""#), "PONG");
    running.signal(Signal::TERM);
    assert_eq!(running.end().code(), Some(0), "it does not wait for a reader for ever");
    drop(running);
    let mut text = Vec::new();
    reader.read_to_end(&mut text).unwrap();
    assert!(text.iter().all(|byte| *byte == b'x'), "nothing fitted in");
}

#[test]
fn many_refusals_are_counted_and_not_all_told() {
    let running = Running::start("authorization {user: a, password: b}\n", &[]);
    let mut logins = 0;
    eventually("lines are left out", || {
        logins += 1;
        assert_eq!(login(running.client(), r#""user":"x","pass":"y""#), "-ERR 'Authorization Violation'");
        running.log().contains("are only counted for a second")
    });
    let told = running.log().matches("] authorization violation").count();
    assert!(told >= 1 && logins > 1, "{told} of {logins}");
}

#[test]
fn another_process_is_signalled_through_its_pid_file() {
    let mut running = Running::start("", &[]);
    let pid_file = running.directory.path().join("pid");
    let output = run(&["--signal", &format!("quit={}", pid_file.display())]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(running.end().success());
    assert!(running.log().contains("Trapped \"interrupt\" signal"));
}

#[test]
fn a_port_in_use_is_told_on_stderr_and_in_the_log() {
    let running = Running::start("", &[]);
    let log = running.directory.path().join("second.log");
    let port = running.client().port().to_string();
    let output = run(&["-a", "127.0.0.1", "-p", &port, "-l", log.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("the port is in use"), "{}", stderr(&output));
    assert!(fs::read_to_string(log).unwrap().contains("[FTL] cannot listen on 127.0.0.1:"));
    let output = run(&["-a", "127.0.0.1", "-p", &port]);
    assert_eq!(stderr(&output).matches("the port is in use").count(), 1, "{}", stderr(&output));
}

#[test]
fn monitoring_is_on_loopback_when_asked_for() {
    let running = Running::start("", &["-a", "0.0.0.0", "-m", "-1"]);
    let address = running.address("monitoring");
    assert!(address.ip().is_loopback());
    running.waits_for(&format!("[INF] Starting http monitor on {address}"));
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("200 OK") && answer.contains(r#"{"status":"ok"}"#), "{answer}");
}

#[test]
fn included_files_are_found_beside_the_one_that_names_them() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("limits.conf"), "max_payload: 16KB\n").unwrap();
    let running = Running::start_as(
        "ostler-broker",
        Path::new(PROGRAM),
        directory,
        "include limits.conf\nserver_name: x\n",
        &[],
    );
    let (_raw, info) = Raw::open(running.client());
    assert!(info.contains("\"max_payload\":16384"), "{info}");
}
