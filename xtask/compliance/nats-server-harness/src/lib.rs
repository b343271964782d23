//! Spawns the first `nats-server` on PATH for a test and kills it when the test is over.
//!
//! What it asks of the binary: `-a`(never), `-p PORT`, `-sd DIR`, `-c FILE`, `-P PIDFILE`, `-l LOGFILE`,
//! SIGUSR2 = lame duck; for clusters `--cluster URL --cluster_name N --routes A,B -n NAME`.
//! Unlike the upstream harness it depends on no log wording: it picks the port itself.

use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

pub struct Server {
    cfg: String,
    extra: Vec<String>,
    port: u16,
    id: String,
    child: Child,
}

pub struct Cluster {
    pub servers: Vec<Server>,
}

static NEXT: AtomicU32 = AtomicU32::new(0);

fn scratch(id: &str, what: &str) -> PathBuf {
    env::temp_dir().join(format!("nats-harness-{id}-{what}"))
}

fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

pub fn is_port_available(port: usize) -> bool {
    TcpListener::bind(("127.0.0.1", port as u16)).is_ok()
}

fn launch(cfg: &str, port: u16, id: &str, extra: &[String]) -> Child {
    let mut cmd = Command::new("nats-server");
    cmd.arg("-p").arg(port.to_string());
    cmd.arg("-sd").arg(scratch(id, "store"));
    cmd.arg("-P").arg(scratch(id, "pid")).arg("-l").arg(scratch(id, "log"));
    if !cfg.is_empty() {
        cmd.arg("-c").arg(cfg);
    }
    let mut child = cmd
        .args(extra)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .spawn()
        .expect("no `nats-server` on PATH");
    let t = Instant::now();
    while t.elapsed() < Duration::from_secs(15) {
        if TcpStream::connect(("127.0.0.1", port)).is_ok() {
            break;
        }
        if let Ok(Some(st)) = child.try_wait() {
            let log = fs::read_to_string(scratch(id, "log")).unwrap_or_default();
            panic!("nats-server ended at once ({st}) with config {cfg:?}\n{log}");
        }
        thread::sleep(Duration::from_millis(5));
    }
    child
}

fn start(cfg: &str, port: u16, extra: Vec<String>) -> Server {
    let id = format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let child = launch(cfg, port, &id, &extra);
    Server { cfg: cfg.into(), extra, port, id, child }
}

pub fn run_server(cfg: &str) -> Server {
    start(cfg, free_port(), vec![])
}

pub fn run_basic_server() -> Server {
    run_server("")
}

pub fn run_server_with_port(cfg: &str, port: Option<&str>) -> Server {
    start(cfg, port.map(|p| p.parse().unwrap()).unwrap_or_else(free_port), vec![])
}

pub struct Config<'a>([&'a str; 3]);

pub trait IntoConfig<'a> {
    fn into_config(self) -> Config<'a>;
}

impl<'a> IntoConfig<'a> for &'a str {
    fn into_config(self) -> Config<'a> {
        Config([self; 3])
    }
}

impl<'a> IntoConfig<'a> for [&'a str; 3] {
    fn into_config(self) -> Config<'a> {
        Config(self)
    }
}

pub fn run_cluster<'a, C: IntoConfig<'a>>(cfg: C) -> Cluster {
    let cfg = cfg.into_config();
    let routes: Vec<u16> = (0..3).map(|_| free_port()).collect();
    let servers = (0..3)
        .map(|i| {
            let others: Vec<String> =
                (0..3).filter(|j| *j != i).map(|j| format!("nats://127.0.0.1:{}", routes[j])).collect();
            let extra = [
                "--cluster",
                &format!("nats://127.0.0.1:{}", routes[i]),
                "--cluster_name",
                "cluster",
                "--routes",
                &others.join(","),
                "-n",
                &format!("node{}", i + 1),
            ];
            start(cfg.0[i], free_port(), extra.iter().map(|s| s.to_string()).collect())
        })
        .collect();
    // Time for routes to form and a JetStream leader to be elected.
    thread::sleep(Duration::from_secs(2));
    Cluster { servers }
}

impl Cluster {
    pub fn client_url(&self) -> String {
        self.servers[0].client_url()
    }
}

pub fn set_lame_duck_mode(s: &Server) {
    let status =
        Command::new("kill").arg("-USR2").arg(s.child.id().to_string()).status().expect("kill is a program");
    assert!(status.success(), "cannot signal the server");
}

impl Server {
    pub fn restart(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.child = launch(&self.cfg, self.port, &self.id, &self.extra);
    }

    fn info(&self) -> serde_json::Value {
        let s = TcpStream::connect(("127.0.0.1", self.port)).expect("connect");
        s.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut line = String::new();
        BufReader::new(s).read_line(&mut line).expect("INFO");
        serde_json::from_str(line.trim_start_matches("INFO")).expect("INFO json")
    }

    pub fn client_url(&self) -> String {
        let scheme = if self.info()["tls_required"].as_bool() == Some(true) { "tls" } else { "nats" };
        format!("{scheme}://localhost:{}", self.port)
    }

    pub fn client_port(&self) -> u16 {
        self.port
    }

    pub fn client_pid(&self) -> usize {
        self.child.id() as usize
    }

    pub fn client_url_with(&self, user: &str, pass: &str) -> String {
        self.client_url().replace("://", &format!("://{user}:{pass}@"))
    }

    pub fn client_url_with_token(&self, token: &str) -> String {
        self.client_url().replace("://", &format!("://{token}@"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(scratch(&self.id, "store"));
        let _ = fs::remove_file(scratch(&self.id, "pid"));
        if !thread::panicking() {
            let _ = fs::remove_file(scratch(&self.id, "log"));
        }
    }
}
