//! System events: what the server says about itself in the system account, and what it answers there. Nobody listens
//! mostly, and then nothing is made.
//!
//! Events wait for the end of the batch. Delivering one may close a subscriber, which is an event again; made at once,
//! that would go as deep as there are subscribers.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use ostler_broker_proto::Publish;
use serde_json::{Value, json};

use super::conn::Conn;
use super::message::Msg;
use super::verdicts::Hashed;
use super::{Shard, tasks};
use crate::connect::{CLAIMED_VERSION, Connect};
use crate::monitor::MonitorAnswer;
use crate::monitor::query::of_json;
use crate::permissions::{Permissions, Rules};
use crate::snapshot::CloseReason;
use crate::time::rfc3339;

/// Questions whose answers must be gathered from all shards, at a time. More are not answered: who asks, asks again.
const GATHERED_MAX: usize = 16;

const CONNECT_TYPE: &str = "io.nats.server.advisory.v1.client_connect";
const DISCONNECT_TYPE: &str = "io.nats.server.advisory.v1.client_disconnect";
/// What users of the system account ask servers, followed by `PING` or the id of one.
const REQUEST_PREFIX: &[u8] = b"$SYS.REQ.SERVER.";

/// A message of the server.
pub(super) struct Event {
    subject: Vec<u8>,
    body_crlf: Vec<u8>,
}

/// What can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Question {
    /// Which server is this?
    Id,
    /// How much does it do?
    Statistics,
    /// A document that the monitor has, by its path.
    Document(&'static str),
}

impl Question {
    /// What `subject` asks the server `id`.
    fn parse(subject: &[u8], id: &str) -> Option<Self> {
        let rest = subject.strip_prefix(REQUEST_PREFIX)?;
        let (whom, what) = match rest.iter().position(|byte| *byte == b'.') {
            Some(dot) => (&rest[..dot], &rest[dot + 1..]),
            None => (rest, &b""[..]),
        };
        let is_ping = whom == b"PING";
        if !is_ping && whom != id.as_bytes() {
            return None;
        }
        Some(match what {
            b"" if is_ping => Self::Statistics,
            b"STATSZ" => Self::Statistics,
            b"IDZ" => Self::Id,
            b"VARZ" => Self::Document("/varz"),
            b"CONNZ" => Self::Document("/connz"),
            b"SUBSZ" => Self::Document("/subsz"),
            b"HEALTHZ" => Self::Document("/healthz"),
            b"ACCOUNTZ" => Self::Document("/accountz"),
            b"JSZ" => Self::Document("/jsz"),
            _ => return None,
        })
    }
}

impl Shard {
    /// A client is somebody, from here on.
    pub(super) fn note_login(&mut self, slot: usize) {
        if !self.has_listeners() {
            return;
        }
        let Some(conn) = self.conns[slot].as_deref() else {
            return;
        };
        let account = &self.routes[conn.account].account().name;
        let subject = format!("$SYS.ACCOUNT.{account}.CONNECT");
        let client = self.client_json(conn, None);
        self.emit_advisory(&subject, CONNECT_TYPE, json!({ "client": client }));
    }

    /// A client that had said CONNECT is gone.
    pub(super) fn note_end(&mut self, conn: &Conn, reason: CloseReason, is_serving: bool) {
        if !is_serving || !self.has_listeners() || !(conn.is_connected || conn.claim.is_some()) {
            return;
        }
        let now = SystemTime::now();
        let traffic = &conn.traffic;
        let advisory = json!({
            "client": self.client_json(conn, Some(now)),
            // Seen from the client, as nats-server tells it.
            "sent": { "msgs": traffic.in_msgs, "bytes": traffic.in_bytes },
            "received": { "msgs": traffic.out_msgs, "bytes": traffic.out_bytes },
            "reason": reason.as_str(),
        });
        if conn.claim.is_some() {
            let subject = format!("$SYS.SERVER.{}.CLIENT.AUTH.ERR", self.shared.server_id);
            self.emit_advisory(&subject, DISCONNECT_TYPE, advisory.clone());
        }
        let subject = format!("$SYS.ACCOUNT.{}.DISCONNECT", self.account_name(conn));
        self.emit_advisory(&subject, DISCONNECT_TYPE, advisory);
    }

    /// The server as a whole does something: said once, by the first shard.
    pub(super) fn note_of_server(&mut self, what: &str) {
        if self.index == 0 && self.has_listeners() {
            let subject = format!("$SYS.SERVER.{}.{what}", self.shared.server_id);
            let server = self.server_json();
            self.emit(subject.into_bytes(), &server);
        }
    }

    /// The last event, for the system users of this shard: those of others hear it from their own, which end too.
    pub(super) fn note_shutdown(&mut self) {
        if !self.has_listeners() {
            return;
        }
        self.deliver_events();
        let mut body_crlf = self.server_json().to_string().into_bytes();
        body_crlf.extend_from_slice(b"\r\n");
        let subject = format!("$SYS.SERVER.{}.SHUTDOWN", self.shared.server_id);
        let message = message(subject.as_bytes(), &body_crlf);
        let account = self.place_of_system();
        let route = self.routes[account].get(message.subject, self.index);
        for target in &route.local {
            self.deliver(target, &message, &mut None, false);
        }
    }

    fn place_of_system(&mut self) -> usize {
        let name = Box::clone(&self.shared.accounts.system().name);
        self.place_of_account(&name)
    }

    /// Answers what a user of the system account asks; returns whether there will be an answer.
    #[cold]
    pub(super) fn answer_system(
        &mut self,
        slot: usize,
        subject: &[u8],
        reply: Option<&[u8]>,
        options: &[u8],
    ) -> bool {
        let is_system = self.at(slot).map(|conn| conn.account).is_some_and(|account| {
            Arc::ptr_eq(self.routes[account].account(), self.shared.accounts.system())
        });
        let question = Question::parse(subject, &self.shared.server_id).filter(|_| is_system);
        let (Some(question), Some(reply)) = (question, reply) else {
            return false;
        };
        match question {
            Question::Id => {
                let shared = &self.shared;
                let (name, host, id) = (&shared.server_name, shared.listen.ip(), &shared.server_id);
                let answer = json!({ "name": name, "host": host, "id": id });
                self.emit(reply.to_vec(), &answer);
            }
            Question::Statistics => {
                let answer = json!({ "server": self.server_json(), "statsz": self.statistics_json() });
                self.emit(reply.to_vec(), &answer);
            }
            Question::Document(path) => {
                if self.gathering >= GATHERED_MAX {
                    tracing::warn!("too many questions about the server at a time; one is not answered");
                    return false;
                }
                if let Some(myself) = self.myself.upgrade() {
                    self.gathering += 1;
                    let path = format!("{path}?{}", of_json(options));
                    tokio::task::spawn_local(tasks::gather(myself, path, reply.to_vec()));
                }
            }
        }
        true
    }

    /// A document is there that was asked for.
    pub(super) fn gathered(&mut self, reply: Vec<u8>, document: &MonitorAnswer) {
        self.gathering -= 1;
        let answer = match serde_json::from_str::<Value>(&document.body) {
            Ok(mut data) => {
                if data.get("status").is_some() {
                    data["status_code"] = document.status.into();
                }
                json!({ "server": self.server_json(), "data": data })
            }
            // A text says what was wrong with the question.
            Err(_) => {
                let error = json!({ "code": document.status, "description": document.body });
                json!({ "server": self.server_json(), "error": error })
            }
        };
        self.emit(reply, &answer);
        self.flush();
    }

    /// Tells a client who it is; returns whether it is still there. Its own subscriptions hear it, nobody else's.
    #[cold]
    pub(super) fn answer_user_info(&mut self, slot: usize, publish: &Publish<'_>) -> bool {
        self.acknowledge(slot);
        let Some(entry) = self.at(slot).and_then(|conn| conn.entry.clone()) else {
            return self.conns[slot].is_some();
        };
        let Some(reply) = publish.reply else {
            return true;
        };
        let identity = &entry.identity;
        let mut data = json!({
            "user": entry.public_name().unwrap_or(&identity.name),
            "account": identity.account,
            "account_name": identity.account,
        });
        if identity.permissions != Permissions::all() {
            data["permissions"] = permissions_json(&identity.permissions);
        }
        let mut body = json!({ "server": self.server_json(), "data": data }).to_string().into_bytes();
        body.extend_from_slice(b"\r\n");
        self.send_to_self(slot, reply, None, &body);
        self.conns[slot].is_some()
    }

    /// Publishes what was emitted. The publisher is the server: it waits for nobody.
    pub(super) fn deliver_events(&mut self) {
        if self.events.is_empty() {
            return;
        }
        let account = self.place_of_system();
        for Event { subject, body_crlf } in std::mem::take(&mut self.events) {
            let message = message(&subject, &body_crlf);
            let route = self.routes[account].get(Hashed::new(&subject), self.index);
            let mut shared_body = None;
            for target in &route.local {
                self.deliver(target, &message, &mut shared_body, route.local.len() > 1);
            }
            for (shard, targets) in &route.remote {
                self.outboxes[*shard].push(&message, targets);
            }
            for members in &route.groups {
                self.deliver_to_group(members, None, 0, &message, &mut shared_body);
            }
        }
        self.wait_for = None;
    }

    fn has_listeners(&self) -> bool {
        self.shared.accounts.system().subscriptions() > 0
    }

    fn emit_advisory(&mut self, subject: &str, kind: &str, mut advisory: Value) {
        let id: String = (0..22).map(|_| self.random.alphanumeric()).collect();
        advisory["type"] = kind.into();
        advisory["id"] = id.into();
        advisory["timestamp"] = rfc3339(SystemTime::now()).into();
        advisory["server"] = self.server_json();
        self.emit(subject.as_bytes().to_vec(), &advisory);
    }

    fn emit(&mut self, subject: Vec<u8>, body: &Value) {
        let mut body_crlf = body.to_string().into_bytes();
        body_crlf.extend_from_slice(b"\r\n");
        self.events.push(Event { subject, body_crlf });
    }

    fn server_json(&self) -> Value {
        let shared = &self.shared;
        json!({
            "name": shared.server_name,
            "host": shared.listen.ip(),
            "id": shared.server_id,
            "ver": CLAIMED_VERSION,
            "jetstream": shared.jetstream.is_on,
            "flags": 0,
            "seq": shared.next_event_id(),
            "time": rfc3339(SystemTime::now()),
        })
    }

    /// The account a client belongs to; who failed to prove anything is told as of that of everybody.
    fn account_name(&self, conn: &Conn) -> &str {
        let account = if conn.claim.is_some() {
            self.shared.accounts.global()
        } else {
            self.routes[conn.account].account()
        };
        &account.name
    }

    fn client_json(&self, conn: &Conn, stop: Option<SystemTime>) -> Value {
        let account = self.account_name(conn);
        let mut client = json!({
            "start": rfc3339(self.shared.started.wall_at(conn.started)),
            "host": conn.peer.ip().to_canonical(),
            "id": conn.link.id,
            "acc": account,
            "name_tag": account,
            "kind": "Client",
            "client_type": if conn.stream.info().is_websocket { "websocket" } else { "nats" },
        });
        // Absent where there is nothing to say, as nats-server has it.
        let mut say = |key: &str, text: &str| {
            if !text.is_empty() {
                client[key] = text.into();
            }
        };
        say("user", user(conn).unwrap_or_default());
        if let Some(about) = conn.about.as_deref() {
            say("name", &about.name);
            say("lang", &about.lang);
            say("ver", &about.version);
        }
        if let Some(stop) = stop {
            client["stop"] = rfc3339(stop).into();
            if let Some(round_trip) = conn.round_trip {
                client["rtt"] = (round_trip.as_nanos() as u64).into();
            }
        }
        client
    }

    fn statistics_json(&self) -> Value {
        let stats = crate::stats::Stats::of(&self.shared);
        let usage = crate::process::ProcessUsage::now();
        let started = &self.shared.started;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let lived = Instant::now().duration_since(started.instant).as_secs_f64();
        let cpu = usage.cpu.map_or(0.0, |cpu| (cpu.as_secs_f64() / lived.max(0.001) * 1000.0).round() / 10.0);
        let active = self.shared.accounts.all().iter().filter(|account| account.subscriptions() > 0).count();
        let traffic = |msgs: u64, bytes: u64| json!({ "msgs": msgs, "bytes": bytes });
        let (sent, received) =
            (traffic(stats.out_msgs, stats.out_bytes), traffic(stats.in_msgs, stats.in_bytes));
        json!({
            "start": rfc3339(started.wall),
            "mem": usage.memory_bytes.unwrap_or(0),
            "cores": cores,
            "cpu": cpu,
            "connections": stats.connections,
            "total_connections": stats.connections_total,
            "active_accounts": active,
            "subscriptions": stats.subscriptions,
            "sent": sent,
            "sent_to_clients": sent,
            "received": received,
            "received_from_clients": received,
            "slow_consumers": stats.slow_consumers,
            "active_servers": 1,
        })
    }
}

fn message<'a>(subject: &'a [u8], body_crlf: &'a [u8]) -> Msg<'a> {
    let subject = Hashed::new(subject);
    Msg { subject, to: None, reply: None, header_len: None, body_crlf, tail: None, frame: None }
}

/// As nats-server writes them, with one difference: an empty list of permitted subjects is there and permits nothing.
fn permissions_json(permissions: &Permissions) -> Value {
    let rules = |rules: &Rules| {
        let mut told = json!({ "allow": rules.allow });
        if !rules.deny.is_empty() {
            told["deny"] = json!(rules.deny);
        }
        told
    };
    let mut told =
        json!({ "publish": rules(&permissions.publish), "subscribe": rules(&permissions.subscribe) });
    if let Some(responses) = permissions.allow_responses {
        told["responses"] = json!({ "max": responses.max, "ttl": responses.ttl.as_nanos() as u64 });
    }
    told
}

/// What a client is called, or called itself in vain.
fn user(conn: &Conn) -> Option<&str> {
    if let Some(claim) = &conn.claim {
        return Some(claim);
    }
    let entry = conn.entry.as_deref().filter(|entry| !entry.is_anonymous())?;
    Some(entry.public_name().unwrap_or(&entry.identity.name))
}

/// Whom a client claimed to be; never a secret.
pub(super) fn claim(connect: &Connect) -> Box<str> {
    if connect.nkey.is_empty() { connect.user.as_str().into() } else { connect.nkey.as_str().into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_for_all_servers_or_for_one() {
        let asked = |subject: &str| Question::parse(subject.as_bytes(), "NME");
        assert_eq!(asked("$SYS.REQ.SERVER.PING"), Some(Question::Statistics));
        assert_eq!(asked("$SYS.REQ.SERVER.PING.STATSZ"), Some(Question::Statistics));
        assert_eq!(asked("$SYS.REQ.SERVER.NME.IDZ"), Some(Question::Id));
        assert_eq!(asked("$SYS.REQ.SERVER.PING.CONNZ"), Some(Question::Document("/connz")));
        for other in
            ["$SYS.REQ.SERVER.NME", "$SYS.REQ.SERVER.NOTME.IDZ", "$SYS.REQ.SERVER.PING.X", "$SYS.REQ", "x"]
        {
            assert_eq!(asked(other), None, "{other}");
        }
    }
}
