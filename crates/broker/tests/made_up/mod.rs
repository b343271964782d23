//! Makes up conversations between clients and a server from a seed: mostly sensible, in every spelling the protocol
//! allows, and now and then wrong. It does not know what is answered.

use fastrand::Rng;

use crate::dialogue::{Act, Step};

/// Few, so that they meet.
const FILTERS: [&str; 16] = [
    "a", "b", "a.b", "a.*", "*.b", "a.>", ">", "*", "a.b.c", "a.*.c", "a*", "a.b>", "a..b", ".a", "a.",
    "a.>.b",
];
const SUBJECTS: [&str; 14] =
    ["a", "b", "a.b", "a.b.c", "c", "nobody", "r", "a*", "a.b>", "a..b", ".a", "a.*", ">", "a.>"];
const REPLIES: [&str; 5] = ["r", "r.1", "a.b", "r..x", "r.*"];
/// Subjects around the permissions of the house `users`.
const FILTERS_OF_USERS: [&str; 15] = [
    "agent.a.output",
    "agent.a.>",
    "agent.>",
    "agent.*",
    "agent.b.output",
    "news.>",
    "news.*",
    "news.secret",
    "news.day",
    "_INBOX.a.1",
    "_INBOX.b.1",
    "_INBOX.>",
    "*.secret",
    "*.*",
    ">",
];
const SUBJECTS_OF_USERS: [&str; 9] = [
    "agent.a.output",
    "agent.b.output",
    "agent.a",
    "secret.plan",
    "secret.x",
    "news.day",
    "news.secret",
    "_INBOX.a.1",
    "_INBOX.b.1",
];
/// Not operations, or operations with wrong arguments. Most end the connection. What is answered differently on purpose
/// (see `WANTED` where both servers are compared) is not among them.
const WRONG: [&str; 45] = [
    "GARBAGE\r\n",
    "PUBX a 1\r\nx\r\n",
    "PUB\r\n",
    "PUB a\r\n",
    "PUB a b c 1\r\nx\r\n",
    "PUB a -1\r\n",
    "PUB a 1x\r\n",
    "PUB a +1\r\nx\r\n",
    "PUB a 2\r\nabc\r\n",
    "PUB a 2\r\nab\nx",
    "PUB a 2\r\nab\rx",
    "PUB a 0000000002\r\nab\r\n",
    "PUB a 000000002\r\nab\r\n",
    "PUB a 9999999999\r\n",
    "PUB a 2000000\r\n",
    "SUB\r\n",
    "SUB a\r\n",
    "SUB a q 1 2\r\n",
    "UNSUB\r\n",
    "UNSUB 1 x\r\n",
    "UNSUB 1 -1\r\n",
    "UNSUB 1 0\r\n",
    "UNSUB 1 2 3\r\n",
    "UNSUB 1 9999999999\r\n",
    "HPUB a 12\r\n",
    "HPUB a 20 10\r\n",
    "HPUB a x 12\r\n",
    "HPUB a 12 x\r\n",
    "HPUB a b c 1 2\r\n",
    "HPUB a 0 1\r\nx\r\n",
    "HPUB a 1 1\r\nx\r\n",
    "MSG a 1 1\r\nx\r\n",
    "CONNECT\r\n",
    "CONNECT nothing\r\n",
    "CONNECT {\"verbose\":1}\r\n",
    "CONNECT {} x\r\n",
    "CONNECT []\r\n",
    "CONNECT null\r\n",
    "\r\n",
    "\n",
    " PING\r\n",
    "\0",
    "+OKAY\r\n",
    "-ERR 'given up'\r\n",
    "P\r\n",
];
const HEADERS: [&str; 6] = [
    "NATS/1.0\r\n\r\n",
    "NATS/1.0\r\nA: 1\r\n\r\n",
    "NATS/1.0\r\nA: 1\r\nA: 2\r\nB:\r\n\r\n",
    "NATS/1.0 503\r\n\r\n",
    "no headers",
    "\r\n\r\n",
];
const PAYLOADS: [&str; 6] = ["", "x", "hello", "PING\r\n", "0123456789abcdef", "0123456789abcdefg"];

/// The conversation of this seed.
pub(crate) fn steps(house: &str, seed: u64) -> Vec<Step> {
    let mut maker = Maker { random: Rng::with_seed(seed), users: house == "users" };
    let clients = maker.random.usize(1..=4);
    let mut steps = Vec::new();
    for client in 0..clients {
        // Now and then somebody does not introduce himself.
        if maker.users || maker.random.u8(..10) > 0 {
            let connect = maker.connect();
            steps.push(maker.spoken(client, connect));
        }
    }
    for _ in 0..maker.random.usize(5..25) {
        let client = maker.random.usize(..clients);
        steps.push(maker.step(client));
    }
    steps
}

struct Maker {
    random: Rng,
    users: bool,
}

impl Maker {
    fn one_of<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words[self.random.usize(..words.len())]
    }

    fn step(&mut self, client: usize) -> Step {
        if self.random.u8(..60) == 0 {
            return Step { client, act: Act::HangUp };
        }
        let mut bytes = Vec::new();
        for _ in 0..=self.random.usize(..3) {
            bytes.append(&mut self.operation());
        }
        self.spoken(client, bytes)
    }

    /// In one piece or several.
    fn spoken(&mut self, client: usize, mut bytes: Vec<u8>) -> Step {
        let mut pieces = Vec::new();
        while self.random.u8(..4) == 0 && bytes.len() > 1 {
            let rest = bytes.split_off(self.random.usize(1..bytes.len()));
            pieces.push(std::mem::replace(&mut bytes, rest));
        }
        pieces.push(bytes);
        Step { client, act: Act::Say(pieces) }
    }

    fn connect(&mut self) -> Vec<u8> {
        let mut options = Vec::new();
        for (name, usual) in [
            ("verbose", false),
            ("pedantic", false),
            ("echo", true),
            ("headers", true),
            ("no_responders", true),
        ] {
            match self.random.u8(..10) {
                0..6 => options.push(format!("\"{name}\":{usual}")),
                6..8 => options.push(format!("\"{name}\":{}", !usual)),
                _ => {}
            }
        }
        if self.random.bool() {
            options.push(format!("\"protocol\":{}", self.random.u8(..2)));
        }
        if self.random.bool() {
            options.push(String::from("\"lang\":\"x\",\"version\":\"1\",\"unknown\":[1,{}]"));
        }
        if self.users {
            let user = self.one_of(&["all", "limited", "limited", "member", "member", "nobody"]);
            options.push(format!("\"user\":\"{user}\",\"pass\":\"{user}\""));
        }
        let verb = self.spelled("CONNECT");
        format!("{verb} {{{}}}{}", options.join(","), self.line_end()).into_bytes()
    }

    fn operation(&mut self) -> Vec<u8> {
        let line = match self.random.u8(..100) {
            0..25 => self.subscribe(),
            25..35 => self.unsubscribe(),
            35..75 => return self.publish(),
            75..85 => return self.publish_with_headers(),
            85..92 => {
                let verb = self.one_of(&["PING", "PING", "PONG", "PINGxyz", "+OK", "INFO {}"]);
                vec![self.spelled(verb)]
            }
            92..94 => return self.connect(),
            _ => return self.wrong().as_bytes().to_vec(),
        };
        self.line(&line).into_bytes()
    }

    fn wrong(&mut self) -> &'static str {
        let wrong = self.one_of(&WRONG);
        // A second CONNECT without a credential is one of the wanted differences.
        if self.users && wrong.starts_with("CONNECT") { "CONNECT nothing\r\n" } else { wrong }
    }

    fn subscribe(&mut self) -> Vec<String> {
        let filter = self.filter().to_owned();
        let verb = self.spelled("SUB");
        if self.random.u8(..3) == 0 {
            let queue = self.one_of(&["q1", "q2"]).to_owned();
            return vec![verb, filter, queue.clone(), queue];
        }
        vec![verb, filter, self.sid()]
    }

    fn unsubscribe(&mut self) -> Vec<String> {
        let verb = self.spelled("UNSUB");
        // Which member of a group reaches its maximum is the server's choice, so groups have none.
        match self.random.u8(..3) {
            0 => vec![verb, self.one_of(&["q1", "q2"]).to_owned()],
            1 => vec![verb, self.sid()],
            _ => vec![verb, self.sid(), self.random.u8(..4).to_string()],
        }
    }

    fn publish(&mut self) -> Vec<u8> {
        let payload = self.one_of(&PAYLOADS);
        let mut words = vec![self.spelled("PUB"), self.subject().to_owned()];
        words.extend(self.reply());
        words.push(payload.len().to_string());
        format!("{}{payload}\r\n", self.line(&words)).into_bytes()
    }

    fn publish_with_headers(&mut self) -> Vec<u8> {
        let (headers, payload) = (self.one_of(&HEADERS), self.one_of(&PAYLOADS));
        let mut words = vec![self.spelled("HPUB"), self.subject().to_owned()];
        words.extend(self.reply());
        words.push(headers.len().to_string());
        words.push((headers.len() + payload.len()).to_string());
        format!("{}{headers}{payload}\r\n", self.line(&words)).into_bytes()
    }

    fn filter(&mut self) -> &'static str {
        if self.users { self.one_of(&FILTERS_OF_USERS) } else { self.one_of(&FILTERS) }
    }

    fn subject(&mut self) -> &'static str {
        if self.users { self.one_of(&SUBJECTS_OF_USERS) } else { self.one_of(&SUBJECTS) }
    }

    fn reply(&mut self) -> Option<String> {
        let reply = if self.users { "_INBOX.a.1" } else { self.one_of(&REPLIES) };
        self.random.bool().then(|| reply.to_owned())
    }

    fn sid(&mut self) -> String {
        self.one_of(&["1", "2", "3", "x4"]).to_owned()
    }

    /// Letters of either case.
    fn spelled(&mut self, verb: &str) -> String {
        if self.random.u8(..4) > 0 {
            return verb.to_owned();
        }
        verb.chars()
            .map(|letter| if self.random.bool() { letter.to_ascii_lowercase() } else { letter })
            .collect()
    }

    /// Words with blanks between them, and an end.
    fn line(&mut self, words: &[String]) -> String {
        let mut line = String::new();
        for (at, word) in words.iter().enumerate() {
            if at > 0 {
                line.push_str(self.blank());
            }
            line.push_str(word);
        }
        if self.random.u8(..10) == 0 {
            line.push_str(self.blank());
        }
        line.push_str(self.line_end());
        line
    }

    fn blank(&mut self) -> &'static str {
        if self.random.u8(..5) > 0 { " " } else { self.one_of(&["  ", "\t", " \t "]) }
    }

    fn line_end(&mut self) -> &'static str {
        if self.random.u8(..6) > 0 { "\r\n" } else { "\n" }
    }
}
