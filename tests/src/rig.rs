//! The offline rig: a scripted model API on loopback, and Claude Code as `cargo xtask setup` installs it.
//!
//! Nothing here reaches beyond the machine, and no agent sees the person's home directory or key.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

/// Names a Claude Code to test with instead of the installed one.
pub const CLAUDE_VARIABLE: &str = "OSTLER_TEST_CLAUDE";

/// The program under test.
///
/// # Panics
///
/// When it is not installed; the text says how to.
pub fn claude_program() -> PathBuf {
    let program = match std::env::var_os(CLAUDE_VARIABLE) {
        Some(program) => PathBuf::from(program),
        None => workspace().join(".rig/claude/claude"),
    };
    assert!(
        program.is_file(),
        "Claude Code is not at {}: run `cargo xtask setup` (or set {CLAUDE_VARIABLE})",
        program.display()
    );
    program
}

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests lie one folder below the workspace")
}

/// Everything a real agent needs to run in `home` against the server at `base_url`, and nothing else.
pub fn clean_env(home: &Path, base_url: &str) -> BTreeMap<String, String> {
    [
        ("PATH", "/usr/local/bin:/usr/bin:/bin"),
        ("HOME", home.to_str().expect("test directories have UTF-8 names")),
        ("LANG", "C.UTF-8"),
        ("TERM", "dumb"),
        ("ANTHROPIC_API_KEY", "sk-test-fake"),
        ("ANTHROPIC_BASE_URL", base_url),
        ("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1"),
        ("DISABLE_TELEMETRY", "1"),
        ("DISABLE_ERROR_REPORTING", "1"),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .collect()
}

/// A running scripted model server; it ends with this value.
pub struct FakeLlm {
    child: Child,
    /// Where it listens, as `http://127.0.0.1:PORT`.
    pub base_url: String,
}

impl FakeLlm {
    /// Starts a server on a free port.
    ///
    /// # Panics
    ///
    /// When Python is missing or the server does not come up.
    pub fn start() -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("rig/fake_llm.py");
        let mut child = Command::new("python3")
            .arg(&script)
            // The server ends when its stdin does, so a killed test leaves nothing behind.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 runs the scripted model server");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("stdout is a pipe");
        BufReader::new(stdout).read_line(&mut line).expect("the server says where it listens");
        let base_url = line.trim().strip_prefix("listening on ").expect("the server came up").to_owned();
        Self { child, base_url }
    }

    /// The bodies of all requests so far, oldest first.
    ///
    /// # Panics
    ///
    /// When the server does not answer.
    pub fn requests(&self) -> Vec<Value> {
        let address = self.base_url.strip_prefix("http://").expect("the server speaks plain HTTP");
        let mut stream = TcpStream::connect(address).expect("the server listens");
        write!(stream, "GET /_rig/requests HTTP/1.1\r\nhost: rig\r\nconnection: close\r\n\r\n")
            .expect("the server reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("the server answers");
        let (_, body) = answer.split_once("\r\n\r\n").expect("the answer has a body");
        serde_json::from_str(body).expect("the body is JSON")
    }

    /// The texts of all messages of the last request: what the model was told the conversation is.
    pub fn last_conversation(&self) -> Vec<String> {
        let requests = self.requests();
        let messages = requests.last().map(|request| request["messages"].clone()).unwrap_or_default();
        messages.as_array().into_iter().flatten().map(|message| message["content"].to_string()).collect()
    }
}

impl Drop for FakeLlm {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
