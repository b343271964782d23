//! A real nats-server for tests: configured as the guide for external buses says, killed and started again.

use std::fs::{self, File};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use ostler_client::create_key;

use crate::wait::{PATIENCE, wait_until_blocking};

/// Names a nats-server to test with instead of the one on the PATH or the one `cargo xtask setup` installs.
pub const NATS_SERVER_VARIABLE: &str = "OSTLER_NATS_SERVER";

/// Set by `cargo xtask test` when it has a nats-server: then a test that does not find it fails instead of skipping.
pub const REQUIRE_VARIABLE: &str = "OSTLER_REQUIRE_NATS_SERVER";

/// A running nats-server; it ends with this value.
#[derive(Debug)]
pub struct NatsServer {
    dir: PathBuf,
    port: u16,
    child: Option<Child>,
}

/// The page whose configuration the tests run with.
const GUIDE: &str = include_str!("../../../docs/guide/external-bus.md");

/// Who joins, and where the guide has their public keys. Hosts of all agents share one credential; that of an agent
/// called `reviewer` may have one of its own, and so may the agent.
const IDENTITIES: [(&str, &str); 5] = [
    ("daemon", "UDAEMON"),
    ("operator", "UOPERATOR"),
    ("host", "UHOSTS"),
    ("host-reviewer", "UHOST1"),
    ("agent-reviewer", "UAGENT1"),
];

impl NatsServer {
    /// The program to run, when there is one.
    pub fn program() -> Option<PathBuf> {
        if let Some(chosen) = std::env::var_os(NATS_SERVER_VARIABLE) {
            return Some(PathBuf::from(chosen));
        }
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2)?;
        let installed = workspace.join(".rig/nats-server/nats-server");
        let path = std::env::var_os("PATH").unwrap_or_default();
        let on_path = std::env::split_paths(&path).map(|dir| dir.join("nats-server"));
        on_path.chain([installed]).find(|program| program.is_file())
    }

    /// Whether there is a program to run; says loudly what is skipped when there is none.
    ///
    /// # Panics
    ///
    /// When there is none although [`REQUIRE_VARIABLE`] says that there must be.
    pub fn is_installed() -> bool {
        let found = Self::program().is_some();
        let is_required = std::env::var_os(REQUIRE_VARIABLE).is_some();
        assert!(
            found || !is_required,
            "no nats-server, but {REQUIRE_VARIABLE} demands one: correct {NATS_SERVER_VARIABLE}"
        );
        if !found {
            eprintln!(
                "SKIPPED: no nats-server is installed: run `cargo xtask setup`, or set {NATS_SERVER_VARIABLE}"
            );
        }
        found
    }

    /// Starts a server whose files are in `dir`, with a credential for each identity, on a port of its own choice that
    /// it keeps over restarts.
    ///
    /// # Panics
    ///
    /// When there is no program or it does not come up.
    pub fn start(dir: &Path) -> Self {
        let mut server = Self::prepare(dir);
        server.up();
        server
    }

    /// Makes files and credentials, and starts nothing. The configuration is the guide's, word for word, with the public
    /// keys put in.
    ///
    /// # Panics
    ///
    /// When they cannot be written, or the guide has no configuration for one of them.
    pub fn prepare(dir: &Path) -> Self {
        fs::create_dir_all(dir).expect("a directory for the nats-server");
        // Taken and let go: the address has to be known before the server is there.
        let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
        let server = Self { dir: dir.to_owned(), port: free.expect("a free port").port(), child: None };
        let store = dir.join("jetstream").display().to_string();
        let mut configuration = guide_configuration().replace("/var/lib/nats", &store);
        for (name, place) in IDENTITIES {
            let public = create_key(&server.key(name)).expect("a new credential");
            assert!(configuration.contains(place), "the guide's configuration has a user {place}");
            configuration = configuration.replace(place, &public);
        }
        server.configure(&configuration);
        server
    }

    /// Its configuration but for the address, to be changed and given to [`NatsServer::configure`].
    ///
    /// # Panics
    ///
    /// When it cannot be read.
    pub fn configuration(&self) -> String {
        let text = fs::read_to_string(self.dir.join("nats.conf")).expect("the nats-server's configuration");
        text.split_once('\n').map(|(_, rest)| rest.to_owned()).unwrap_or_default()
    }

    /// Replaces the configuration but for the address; counts from the next start.
    ///
    /// # Panics
    ///
    /// When it cannot be written.
    pub fn configure(&self, rest: &str) {
        let text = format!("listen: \"127.0.0.1:{}\"\n{rest}", self.port);
        fs::write(self.dir.join("nats.conf"), text).expect("the nats-server's configuration");
    }

    /// Starts it, and waits until it listens.
    ///
    /// # Panics
    ///
    /// When it does not; its log is in the message.
    pub fn up(&mut self) {
        assert!(self.child.is_none(), "the nats-server runs already");
        let program = Self::program().expect("a nats-server is installed");
        let log = File::options().create(true).append(true).open(self.log_path()).expect("its log");
        let mut child = Command::new(program)
            .arg("-c")
            .arg(self.dir.join("nats.conf"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .expect("the nats-server's program starts");
        let mut ended = None;
        wait_until_blocking("the nats-server listens", PATIENCE, || {
            ended = child.try_wait().expect("a child can be asked");
            ended.is_some() || TcpStream::connect(("127.0.0.1", self.port)).is_ok()
        });
        assert!(ended.is_none(), "the nats-server ended at its start: {}", self.log());
        self.child = Some(child);
    }

    /// SIGKILL; returns when it is gone.
    ///
    /// # Panics
    ///
    /// When it does not run.
    pub fn kill9(&mut self) {
        let mut child = self.child.take().expect("the nats-server runs");
        child.kill().expect("a child can be killed");
        child.wait().expect("a child can be waited for");
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// The file with the credential of `daemon`, `operator`, `host`, `host-reviewer` or `agent-reviewer`.
    pub fn key(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.nk"))
    }

    /// The `[bus]` section of a daemon that runs on it.
    pub fn bus_section(&self) -> String {
        let file = |name| self.key(name).display().to_string();
        format!(
            "[bus]\nurl = \"{}\"\ncredentials = \"{}\"\noperator_credentials = \"{}\"\nhost_credentials = \"{}\"\n",
            self.url(),
            file("daemon"),
            file("operator"),
            file("host")
        )
    }

    /// What it wrote so far, over all its starts.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.dir.join("nats.log")
    }
}

/// The block of the guide that is to be copied.
fn guide_configuration() -> String {
    let (_, block) = GUIDE.split_once("```text\n").expect("the guide has a configuration");
    let (block, _) = block.split_once("```").expect("the configuration ends");
    block.to_owned()
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
