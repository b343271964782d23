//! The servers that scripts are played against, each as our builder and as the configuration file that makes a
//! nats-server the same.
#![allow(dead_code, reason = "each test file uses its part of it, so an expectation fails in some")]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ostler_broker::{AllowResponses, Builder, Credential, Identity, Permissions, Rules, Server, Users};
use ostler_broker_proto::Limits;

use crate::common::{eventually, local};
use crate::dialogue::Target;

/// The names of all houses that have a configuration file.
pub(crate) const HOUSES: [&str; 4] = ["open", "small", "closed", "users"];

/// Our server of that name. One shard, so that what one client causes another hears at once.
pub(crate) fn ours(name: &str) -> Builder {
    let builder = local().shards(1);
    match name {
        "open" => builder.allow_anonymous(),
        "small" => builder.allow_anonymous().max_payload(16).max_control_line(256).max_subscriptions(2),
        "closed" => builder,
        "users" => {
            let password = |name: &str| Credential::Password { user: name.into(), password: name.into() };
            let users = Users::new();
            users.set(Identity::new("all", password("all"), Permissions::all())).unwrap();
            let limited = Permissions {
                publish: Rules::allow(["agent.a.>", "secret.>"]).deny(["secret.plan"]),
                subscribe: Rules::allow(["agent.a.>", "_INBOX.a.>", "news.>", "day.*"]).deny(["news.secret"]),
                allow_responses: Some(AllowResponses { max: 1, ..AllowResponses::default() }),
            };
            users.set(Identity::new("limited", password("limited"), limited)).unwrap();
            let subscribe = Rules::all().deny(["news.secret q1", "agent.* q2", "_INBOX.*"]);
            let member = Permissions { subscribe, ..Permissions::all() };
            users.set(Identity::new("member", password("member"), member)).unwrap();
            builder.users(users)
        }
        other => panic!("no such house: {other}"),
    }
}

/// The same for a nats-server.
fn configuration(name: &str) -> &'static str {
    match name {
        "open" => "",
        "small" => "max_payload: 16\nmax_control_line: 256\nmax_subscriptions: 2\n",
        // Without users a nats-server lets everybody in; ours lets nobody in.
        "closed" => "authorization { token: \"known to nobody\" }\n",
        "users" => {
            r#"authorization { users = [
                { user: all, password: all }
                { user: limited, password: limited, permissions: {
                    publish: { allow: ["agent.a.>", "secret.>"], deny: ["secret.plan"] }
                    subscribe: { allow: ["agent.a.>", "_INBOX.a.>", "news.>", "day.*"], deny: ["news.secret"] }
                    allow_responses: { max: 1, expires: "2m" }
                } }
                { user: member, password: member, permissions: {
                    subscribe: { allow: [">"], deny: ["news.secret q1", "agent.* q2", "_INBOX.*"] }
                } }
            ] }
            "#
        }
        other => panic!("no such house: {other}"),
    }
}

/// What a house accepts.
fn limits(name: &str) -> Limits {
    match name {
        "small" => Limits { payload_bytes_max: 16, control_line_bytes_max: 256 },
        _ => Limits::default(),
    }
}

/// Our server, running.
pub(crate) struct Ours {
    pub(crate) server: Server,
    limits: Limits,
}

impl Ours {
    pub(crate) fn start(name: &str) -> Self {
        Self { server: ours(name).start().unwrap(), limits: limits(name) }
    }
}

impl Target for Ours {
    fn address(&self) -> SocketAddr {
        self.server.local_addr()
    }

    fn connections(&self) -> usize {
        usize::try_from(self.server.stats().connections).unwrap()
    }

    fn limits(&self) -> Limits {
        self.limits
    }
}

/// A real nats-server, running. It ends with the value.
pub(crate) struct Theirs {
    child: Child,
    client: SocketAddr,
    monitor: SocketAddr,
    limits: Limits,
    _folder: tempfile::TempDir,
}

impl Theirs {
    pub(crate) fn start(program: &Path, name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("server.conf");
        std::fs::write(
            &file,
            format!("listen: \"127.0.0.1:-1\"\nhttp: \"127.0.0.1:-1\"\n{}", configuration(name)),
        )
        .unwrap();
        let child = Command::new(program)
            .arg("-c")
            .arg(&file)
            .arg("--ports_file_dir")
            .arg(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(folder.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        let ports = folder.path().join(format!(
            "{}_{}.ports",
            program.file_name().unwrap().to_string_lossy(),
            child.id()
        ));
        let read =
            || -> Option<serde_json::Value> { serde_json::from_slice(&std::fs::read(&ports).ok()?).ok() };
        eventually("nats-server writes down its ports", || read().is_some());
        let ports = read().unwrap();
        let address = |kind: &str| {
            let url = ports[kind][0].as_str().unwrap();
            url.split_once("://").unwrap().1.parse().unwrap()
        };
        let (client, monitor) = (address("nats"), address("monitoring"));
        Self { child, client, monitor, limits: limits(name), _folder: folder }
    }
}

impl Target for Theirs {
    fn address(&self) -> SocketAddr {
        self.client
    }

    fn connections(&self) -> usize {
        let mut stream = TcpStream::connect(self.monitor).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        stream.write_all(b"GET /connz?limit=1 HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let body: serde_json::Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
        usize::try_from(body["total"].as_u64().unwrap()).unwrap()
    }

    fn limits(&self) -> Limits {
        self.limits
    }
}

impl Drop for Theirs {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
