//! A daemon on a real nats-server: joined with every kind of credential, lost and found again, and shared. And TLS, there
//! and on the daemon's own bus.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ostler_testkit::process;
use ostler_testkit::{
    Bus, BusKind, NatsServer, Options, PATIENCE, TestDaemon, assert_gapless, lines, script, wait_until,
};
use ostler_wire::{AgentId, AgentState, AgentSummary, ErrorCode, SpawnRequest, Subject};
use rustix::process::Signal;

/// How long the end of a daemon may take whose bus is away: it gives its last answers ten seconds.
const END_WITHOUT_BUS_MAX: Duration = Duration::from_secs(15);

fn id(name: &str) -> AgentId {
    AgentId::parse(name).expect("a proper name")
}

fn external() -> Options {
    Options { bus: BusKind::External, ..Options::default() }
}

fn named(node: &str) -> Options {
    Options { node: node.into(), ..external() }
}

/// Spawns three agents that print ten thousand numbered lines each, over three seconds or so, and then wait.
async fn three_streams(bus: &Bus) -> Vec<AgentSummary> {
    let mut agents = Vec::new();
    for name in ["a", "b", "c"] {
        let burst = ["lines:10", "sleep:2"];
        let mut request = script([]);
        request.command.extend((0..1000).flat_map(|_| burst.map(str::to_owned)));
        request.command.push("wait".to_owned());
        agents.push(bus.spawn_active(name, request).await);
    }
    agents
}

async fn check_streams(bus: &Bus, before: &[AgentSummary]) {
    let expected: Vec<String> = (1..=10_000).map(|n| format!("line {n}")).collect();
    for agent in before {
        let name = agent.agent_id.as_str();
        bus.wait_for_line(name, "line 10000").await;
        let log = bus.log(name).await;
        assert_gapless(&log);
        assert_eq!(lines(&log), expected, "{name}: every line once, in order");
        let now = bus.wait_for_state(name, AgentState::Active).await;
        assert_eq!((now.pid, now.host_pid, now.run_id), (agent.pid, agent.host_pid, agent.run_id), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_line_is_lost_when_the_nats_server_is_killed_and_comes_back_under_load() {
    if !NatsServer::is_installed() {
        return;
    }
    let mut daemon = TestDaemon::with(external());
    let bus = daemon.bus().await;
    let agents = three_streams(&bus).await;
    for line in ["line 500", "line 2500", "line 5000"] {
        bus.wait_for_line("a", line).await;
        daemon.nats().kill9();
        daemon.nats().up();
        bus.client.connected().await;
        // A request in the moment of the loss may stay unanswered; the next one is not.
        bus.wait_for_state("a", AgentState::Active).await;
    }
    // The daemon and the server together, as in a power cut of the bus machine during an upgrade.
    daemon.kill9();
    daemon.nats().kill9();
    daemon.nats().up();
    daemon.up();
    check_streams(&daemon.bus().await, &agents).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_live_through_an_outage_that_everybody_notices_and_survives() {
    if !NatsServer::is_installed() {
        return;
    }
    let mut daemon = TestDaemon::with(external());
    let bus = daemon.bus().await;
    let agent = bus.spawn_active("a", script(["forever:5"])).await;
    bus.wait_for_line("a", "line 20").await;
    daemon.nats().kill9();
    let pids = [agent.pid.unwrap(), agent.host_pid.unwrap(), daemon.pid()];
    let ps = daemon.ostler(["ps"]);
    assert_eq!(ps.code, Some(3), "{ps:?}");
    assert!(ps.stderr.contains("its bus is away") && ps.stderr.contains("start the nats-server"), "{ps:?}");
    let (subject, nothing) = (Subject::NodeAgents(bus.node.clone()), ostler_wire::JsonMap::new());
    let patience = Duration::from_millis(300);
    let asked = bus.client.request_within::<ostler_wire::ListReply>(&subject, &nothing, patience).await;
    let error = asked.unwrap_err();
    assert!(error.is_retryable(), "{error}");
    assert!(pids.into_iter().all(process::is_alive), "an outage ends nobody");

    daemon.nats().up();
    let again = bus.wait_for_state("a", AgentState::Active).await;
    assert_eq!(again.pid, agent.pid);
    let count = bus.log("a").await.len();
    bus.wait_for_line("a", &format!("line {}", count + 20)).await;
    bus.stop("a").await;
    assert_gapless(&bus.log("a").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_is_started_before_its_bus_waits_for_it_and_says_so() {
    if !NatsServer::is_installed() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut nats = NatsServer::prepare(dir.path());
    let mut daemon = TestDaemon::prepare_with_bus(external(), &nats.bus_section());
    let pid = daemon.launch();
    wait_until("the daemon waits", PATIENCE, || daemon.state().waiting().is_some()).await;
    let status = daemon.ostler(["status"]);
    assert_eq!(status.code, Some(3), "{status:?}");
    let told = format!("the daemon (pid {pid}) is waiting for the bus");
    assert!(status.stderr.contains(&told) && status.stderr.contains(&nats.url()), "{status:?}");
    assert!(daemon.endpoint().is_none(), "nobody is sent to a daemon that cannot answer");

    nats.up();
    wait_until("the daemon is ready", PATIENCE, || daemon.endpoint().is_some()).await;
    assert!(daemon.state().waiting().is_none());
    daemon.bus().await.spawn_active("a", script(["wait"])).await;
    assert!(daemon.log().contains("waiting for it"), "{}", daemon.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_whose_bus_is_away_can_be_ended() {
    if !NatsServer::is_installed() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut nats = NatsServer::prepare(dir.path());
    let mut daemon = TestDaemon::prepare_with_bus(external(), &nats.bus_section());
    daemon.launch();
    wait_until("the daemon waits", PATIENCE, || daemon.state().waiting().is_some()).await;
    assert!(daemon.end_by(Signal::TERM).success(), "while it waits");
    assert!(daemon.state().waiting().is_none());

    nats.up();
    daemon.up();
    let agent = daemon.bus().await.spawn_active("a", script(["wait"])).await;
    nats.kill9();
    let start = Instant::now();
    assert!(daemon.end_by(Signal::TERM).success(), "while it runs");
    assert!(start.elapsed() < END_WITHOUT_BUS_MAX, "it took {:?}", start.elapsed());
    assert!(agent.pid.is_some_and(process::is_alive), "its agents go on");
    nats.up();
    daemon.up();
    let again = daemon.bus().await.wait_for_state("a", AgentState::Active).await;
    assert_eq!(again.pid, agent.pid);
    // Before the server, which the test owns.
    drop(daemon);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waiting_does_not_mend_ends_the_daemon_with_the_remedy() {
    if !NatsServer::is_installed() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut nats = NatsServer::start(dir.path());
    let daemon = TestDaemon::prepare_with_bus(external(), &nats.bus_section());
    let stranger = dir.path().join("stranger.nk");
    ostler_client::create_key(&stranger).unwrap();
    let up_with = |key: &Path| {
        let own = nats.key("daemon").display().to_string();
        let section = nats.bus_section().replace(&own, &key.display().to_string());
        daemon.write_config(&section);
        daemon.ostler(["up"])
    };
    let refused = up_with(&stranger);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("refused the credential") && refused.stderr.contains("credentials"));
    let missing = up_with(Path::new("/nonexistent/key.nk"));
    assert_eq!(missing.code, Some(1), "{missing:?}");
    assert!(missing.stderr.contains("/nonexistent/key.nk"), "{missing:?}");

    nats.kill9();
    nats.configure("max_payload: 64KB\n");
    nats.up();
    daemon.write_config(&nats.bus_section());
    let small = daemon.ostler(["up"]);
    assert_eq!(small.code, Some(1), "{small:?}");
    assert!(small.stderr.contains("65536") && small.stderr.contains("max_payload: 8MB"), "{small:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_daemons_on_one_bus_keep_to_their_own_agents() {
    if !NatsServer::is_installed() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let nats = NatsServer::start(dir.path());
    let start = |node: &str| {
        let mut daemon = TestDaemon::prepare_with_bus(named(node), &nats.bus_section());
        daemon.up();
        daemon
    };
    let (inn, mill) = (start("inn"), start("mill"));
    // The command line names its node; whoever does not is asked to.
    let spawned = inn.ostler(["spawn", "a", "--", "sleep", "600"]);
    assert_eq!(spawned.code, Some(0), "{spawned:?}");
    let spawned = mill.ostler(["spawn", "b", "--", "sleep", "600"]);
    assert_eq!(spawned.code, Some(0), "{spawned:?}");
    let (inn_bus, mill_bus) = (inn.bus().await, mill.bus().await);
    let unclear = |error: &ostler_client::Error| error.code() == Some(ErrorCode::InvalidMessage);
    let refused = inn_bus.try_spawn("c", &script(["wait"])).await.unwrap_err();
    assert!(unclear(&refused) && refused.to_string().contains("mill"), "{refused}");

    let names = async |bus: &Bus| {
        let agents = bus.agents().await;
        agents.into_iter().map(|agent| agent.agent_id.to_string()).collect::<Vec<_>>()
    };
    assert_eq!((names(&inn_bus).await, names(&mill_bus).await), (vec!["a".into()], vec!["b".into()]));
    // Stopped by one, restarted by the other: the owner answers, whoever asks.
    inn_bus.control(Subject::stop(&id("b"))).await.unwrap();
    mill_bus.wait_for_state("b", AgentState::Terminated).await;
    let again = inn_bus.control(Subject::restart(&id("b"))).await.unwrap();
    assert!(again.changed, "{again:?}");
    mill_bus.wait_for_state("b", AgentState::Active).await;
    let unknown = inn_bus.control(Subject::stop(&id("nobody"))).await.unwrap_err();
    assert_eq!(unknown.code(), Some(ErrorCode::UnknownAgent), "{unknown}");
    assert_eq!((names(&inn_bus).await, names(&mill_bus).await), (vec!["a".into()], vec!["b".into()]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_daemon_of_the_same_name_is_refused() {
    if !NatsServer::is_installed() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let nats = NatsServer::start(dir.path());
    let mut first = TestDaemon::prepare_with_bus(named("inn"), &nats.bus_section());
    first.up();
    let second = TestDaemon::prepare_with_bus(named("inn"), &nats.bus_section());
    let refused = second.ostler(["up"]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    let pid = first.pid().to_string();
    assert!(refused.stderr.contains(&pid) && refused.stderr.contains("[node] name"), "{refused:?}");
    // Its own successor is not refused, also after a crash.
    first.kill9();
    first.up();
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_follow_the_daemon_from_its_own_bus_to_a_nats_server_and_back() {
    if !NatsServer::is_installed() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let nats = NatsServer::start(dir.path());
    let own = "[bus]\nlisten = \"127.0.0.1:0\"\n";
    let mut daemon = TestDaemon::prepare_with_bus(named("local"), own);
    daemon.up();
    let agent = daemon.bus().await.spawn_active("a", script(["forever:10"])).await;
    for bus in [&nats.bus_section(), own] {
        assert!(daemon.end_by(Signal::TERM).success());
        daemon.write_config(bus);
        daemon.up();
        let bus = daemon.bus().await;
        let again = bus.wait_for_state("a", AgentState::Active).await;
        assert_eq!((again.pid, again.run_id), (agent.pid, agent.run_id));
        let count = bus.log("a").await.len();
        bus.wait_for_line("a", &format!("line {}", count + 10)).await;
        assert_gapless(&bus.log("a").await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_host_can_have_a_credential_of_its_own_and_agents_get_one_only_when_it_is_named() {
    if !NatsServer::is_installed() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut nats = NatsServer::prepare(dir.path());
    let key = |name: &str| ostler_client::create_key(&dir.path().join(format!("{name}.nk"))).unwrap();
    let daemon_key = key("all");
    let (host, agent) = (key("host-a"), key("agent-a"));
    nats.configure(&format!(
        "authorization {{ users: [
          {{ nkey: {daemon_key} }}
          {{ nkey: {host}, permissions: {{ publish: \"agent.a.>\", allow_responses: true,
             subscribe: [\"agent.a.>\", \"_INBOX_HOST.a.>\"] }} }}
          {{ nkey: {agent}, permissions: {{ publish: \"agent.a.heartbeat\", subscribe: \"agent.a.input\" }} }}
        ] }}\n"
    ));
    nats.up();
    let at = |name: &str| dir.path().join(format!("{name}.nk")).display().to_string();
    let section = format!(
        "[bus]\nurl = \"{}\"\ncredentials = \"{}\"\nhost_credentials = \"{}\"\n",
        nats.url(),
        at("all"),
        at("host-{id}")
    );
    let mut daemon = TestDaemon::prepare_with_bus(external(), &section);
    daemon.up();
    let bus = daemon.bus().await;
    bus.spawn_active("a", script(["env:OSTLER_KEY_FILE", "echo"])).await;
    bus.wait_for_line("a", "OSTLER_KEY_FILE=").await;
    bus.send("a", "hay").await;
    bus.wait_for_line("a", "echo: hay").await;
    let refused = bus.try_spawn("b", &script(["wait"])).await.unwrap_err();
    assert!(refused.to_string().contains("host-b.nk"), "{refused}");

    daemon.end_by(Signal::INT);
    daemon.write_config(&format!("{section}agent_credentials = \"{}\"\n", at("agent-{id}")));
    daemon.up();
    let bus = daemon.bus().await;
    bus.wait_for_line("a", &format!("OSTLER_KEY_FILE={}", at("agent-a"))).await;
    drop(daemon);
}

/// A daemon with this credential file on this server does its main job.
async fn does_its_job(nats: &NatsServer, url: &str, credentials: &Path, more: &str) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(credentials, std::fs::Permissions::from_mode(0o600)).expect("the test's file");
    let section = format!("[bus]\nurl = \"{url}\"\ncredentials = \"{}\"\n{more}\n", credentials.display());
    let mut daemon = TestDaemon::prepare_with_bus(external(), &section);
    daemon.up();
    let bus = daemon.bus().await;
    bus.spawn_active("a", script(["echo"])).await;
    bus.send("a", "oats").await;
    bus.wait_for_line("a", "echo: oats").await;
    let ps = daemon.ostler(["ps", "--json"]);
    assert_eq!(ps.code, Some(0), "{ps:?}\n{}", nats.log());
    bus.stop("a").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn passwords_and_tokens_open_the_bus_too() {
    if !NatsServer::is_installed() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut nats = NatsServer::prepare(dir.path());
    let file = dir.path().join("credential");
    nats.configure("authorization { user: ostler, password: \"oats & hay\" }\n");
    nats.up();
    std::fs::write(&file, "user = \"ostler\"\npassword = \"oats & hay\"\n").unwrap();
    does_its_job(&nats, &nats.url(), &file, "").await;
    nats.kill9();
    nats.configure("authorization { token: \"s3cr3t\" }\n");
    nats.up();
    std::fs::write(&file, "token = \"s3cr3t\"\n").unwrap();
    does_its_job(&nats, &nats.url(), &file, "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_creds_file_of_an_account_opens_the_bus_too() {
    if !NatsServer::is_installed() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut nats = NatsServer::prepare(dir.path());
    let (operator, account, user) =
        (nkeys::KeyPair::new_operator(), nkeys::KeyPair::new_account(), nkeys::KeyPair::new_user());
    let no_limits = r#""subs":-1,"data":-1,"payload":-1"#;
    let operator_jwt = jwt(&operator, &operator, r#""type":"operator","version":2"#);
    let limits = format!(
        r#""limits":{{{no_limits},"imports":-1,"exports":-1,"wildcards":true,"conn":-1,"leaf":-1}},"type":"account","version":2"#
    );
    let account_jwt = jwt(&operator, &account, &limits);
    let user_jwt =
        jwt(&account, &user, &format!(r#""pub":{{}},"sub":{{}},{no_limits},"type":"user","version":2"#));
    nats.configure(&format!(
        "max_payload: 8MB\noperator: {operator_jwt}\nresolver: MEMORY\nresolver_preload: {{ {}: {account_jwt} }}\n",
        account.public_key()
    ));
    nats.up();
    let file = dir.path().join("ostler.creds");
    let creds = format!(
        "-----BEGIN NATS USER JWT-----\n{user_jwt}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
        user.seed().unwrap()
    );
    std::fs::write(&file, creds).unwrap();
    does_its_job(&nats, &nats.url(), &file, "").await;
}

/// A token as nats-server reads them: signed with an nkey.
fn jwt(issuer: &nkeys::KeyPair, subject: &nkeys::KeyPair, nats: &str) -> String {
    let encode = |bytes: &[u8]| data_encoding::BASE64URL_NOPAD.encode(bytes);
    let claims = format!(
        r#"{{"jti":"{}","iat":1763000000,"iss":"{}","name":"test","sub":"{}","nats":{{{nats}}}}}"#,
        encode(subject.public_key().as_bytes()),
        issuer.public_key(),
        subject.public_key()
    );
    let signed =
        format!("{}.{}", encode(br#"{"typ":"JWT","alg":"ed25519-nkey"}"#), encode(claims.as_bytes()));
    let signature = issuer.sign(signed.as_bytes()).expect("the pair holds its seed");
    format!("{signed}.{}", encode(&signature))
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_with_certificates_on_both_sides_carries_the_bus() {
    if !NatsServer::is_installed() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    make_certificates(dir.path());
    for first in [false, true] {
        let mut nats = NatsServer::prepare(&at(if first { "first" } else { "usual" }));
        let public = ostler_client::read_public_key(&nats.key("daemon")).unwrap();
        nats.configure(&format!(
            "authorization {{ users: [ {{ nkey: {public} }} ] }}\n\
             tls {{ cert_file: \"{}\", key_file: \"{}\", ca_file: \"{}\", verify: true, handshake_first: {first} }}\n",
            at("server.pem").display(),
            at("server.key").display(),
            at("ca.pem").display()
        ));
        nats.up();
        let tls = format!(
            "tls = {{ ca = \"{}\", cert = \"{}\", key = \"{}\", first = {first} }}",
            at("ca.pem").display(),
            at("client.pem").display(),
            at("client.key").display()
        );
        let url = nats.url().replace("nats://127.0.0.1", "tls://localhost");
        does_its_job(&nats, &url, &nats.key("daemon"), &tls).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemons_own_bus_speaks_tls_to_everybody_when_it_has_a_certificate() {
    let dir = tempfile::tempdir().unwrap();
    make_certificates(dir.path());
    let at = |name: &str| dir.path().join(name).display().to_string();
    for first in [false, true] {
        let section = format!(
            "[bus]\nlisten = \"127.0.0.1:0\"\ntls = {{ cert = \"{}\", key = \"{}\", ca = \"{}\", first = {first} }}\n",
            at("server.pem"),
            at("server.key"),
            at("ca.pem")
        );
        let mut daemon = TestDaemon::prepare_with_bus(Options::default(), &section);
        daemon.up();
        let bus = daemon.bus().await;
        bus.spawn_active("a", script(["echo"])).await;
        bus.send("a", "oats").await;
        bus.wait_for_line("a", "echo: oats").await;
        let status = daemon.ostler(["status"]);
        assert!(status.code == Some(0) && status.stdout.contains("tls://127.0.0.1:"), "{status:?}");
        let plain = daemon.endpoint().unwrap().bus_url.replace("tls://", "nats://");
        let key = std::fs::read_to_string(daemon.state().operator_key()).unwrap();
        let options = async_nats::ConnectOptions::with_nkey(key.trim().to_owned());
        assert!(options.connect(plain).await.is_err(), "nobody joins who does not trust its certificate");
    }
}

/// `ca.pem`, and `server` and `client` with keys, all signed by it.
fn make_certificates(dir: &Path) {
    let write = |name: &str, text: String| std::fs::write(dir.join(name), text).expect("a file of the test");
    let mut authority = rcgen::CertificateParams::new(Vec::new()).expect("no names are fine");
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().expect("a key");
    write("ca.pem", authority.self_signed(&key).expect("a certificate").pem());
    let issuer = rcgen::Issuer::new(authority, key);
    for name in ["server", "client"] {
        let key = rcgen::KeyPair::generate().expect("a key");
        let names = ["localhost", "127.0.0.1"].map(str::to_owned).to_vec();
        let params = rcgen::CertificateParams::new(names).expect("proper names");
        write(&format!("{name}.pem"), params.signed_by(&key, &issuer).expect("a certificate").pem());
        write(&format!("{name}.key"), key.serialize_pem());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_configuration_in_effect_is_shown_without_any_secret() {
    if !NatsServer::is_installed() {
        return;
    }
    let mut daemon = TestDaemon::with(external());
    let key: PathBuf = daemon.nats().key("daemon");
    let seed = std::fs::read_to_string(&key).unwrap();
    let shown = daemon.ostler(["config", "show"]);
    assert!(
        shown.stdout.contains("url = ") && shown.stdout.contains(&key.display().to_string()),
        "{shown:?}"
    );
    let endpoint = std::fs::read_to_string(daemon.state().endpoint()).unwrap();
    for text in [shown.stdout, endpoint, daemon.log()] {
        assert!(!text.contains(seed.trim()), "a seed is shown");
    }
    let run = SpawnRequest { command: vec!["true".into()], ..SpawnRequest::default() };
    daemon.bus().await.spawn("a", run).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_was_killed_is_started_again_in_the_background() {
    if !NatsServer::is_installed() {
        return;
    }
    let mut daemon = TestDaemon::with(external());
    daemon.kill9();
    let again = daemon.ostler(["up", "-d"]);
    assert_eq!(again.code, Some(0), "{again:?}");
    let refused = daemon.ostler(["up", "-d"]);
    assert_eq!(refused.code, Some(5), "{refused:?}");
    assert_eq!(daemon.ostler(["down"]).code, Some(0));
}
