//! Carrying out what arrives on `$JS.>`: each request is read, checked against what there is, done, and answered.

use ostler_broker_proto::headers::write_no_responders;
use ostler_broker_proto::subject;
use serde::Serialize;

use crate::advisory::{Action, Advisory, ApiAudit, StreamAction};
use crate::api::{
    Answer, ApiError, Command, Created, Deleted, DirectGet, InfoRequest, ListRequest, Listed, MessageDelete,
    MessageFound, MessageGet, Named, NamesRequest, Purge, Purged, StreamInfo, is_nothing, read,
    read_or_default, refusal, render,
};
use crate::bus::{Bus, Incoming, publish};
use crate::jetstream::JetStream;
use crate::readers::Reader;
use crate::stream::{Outcome, Progress, Request, SUBJECTS_PER_PAGE, Stream, StreamConfig};

/// Names in one answer.
pub(crate) const NAMES_PER_PAGE: usize = 1024;
const CONSUMER_DELETE: &str = "consumer_delete_response";
/// Infos in one answer.
pub(crate) const INFOS_PER_PAGE: usize = 256;

/// Where an answer goes and of which type it is.
#[derive(Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub(crate) message: &'a Incoming<'a>,
    pub(crate) now: i64,
}

impl JetStream {
    /// Takes a message on `$JS.>`; false when it is none of ours.
    pub(crate) fn on_reserved(&mut self, message: &Incoming<'_>, now: i64, bus: &mut impl Bus) -> bool {
        // First, because they are as many as messages.
        if message.subject.starts_with(b"$JS.ACK.") {
            self.on_ack(message, now, bus);
            return true;
        }
        let asked = Asked { message, now };
        if let Some(rest) = self.api_subject(message.subject) {
            // Without a way to answer a request has no effect either, as in nats-server.
            if let Some(command) = Command::parse(rest).filter(|_| !message.reply.is_empty()) {
                let counts = !matches!(command, Command::NextMessages(..) | Command::DirectGet(..));
                self.carry_out(command, asked, bus);
                // Afterwards: an answer does not count itself.
                self.api.total += u64::from(counts);
            } else if let Some(subject) = self.store_subject(message.subject) {
                bus.send(subject, subject, message.reply, message.headers, message.payload);
            }
            return true;
        }
        if message.subject.starts_with(b"$JS.FC.") {
            self.on_flow_control(message);
            return true;
        }
        if message.subject.starts_with(b"$JS.SNAPSHOT.") {
            return self.on_transfer(message, now, bus);
        }
        false
    }

    /// The subject of a key-value store that a client which knows only the domain's API writes to:
    /// `$JS.<domain>.API.$KV.<bucket>.<key>`. nats-server maps it so.
    fn store_subject<'a>(&self, subject: &'a [u8]) -> Option<&'a [u8]> {
        let domain = self.context.domain.as_deref()?;
        let rest = subject.strip_prefix(b"$JS.")?.strip_prefix(domain.as_bytes())?.strip_prefix(b".API.")?;
        (rest.starts_with(b"$KV.") || rest.starts_with(b"$OBJ.")).then_some(rest)
    }

    fn api_subject<'a>(&self, subject: &'a [u8]) -> Option<&'a str> {
        let rest = std::str::from_utf8(subject).ok()?.strip_prefix("$JS.")?;
        let of_domain = || {
            let domain = self.context.domain.as_deref()?;
            rest.strip_prefix(domain)?.strip_prefix(".API.")
        };
        rest.strip_prefix("API.").or_else(of_domain)
    }

    fn carry_out(&mut self, command: Command<'_>, asked: Asked<'_>, bus: &mut impl Bus) {
        match command {
            Command::Info => {
                let info = self.account_info();
                self.say(asked, Ok(info), bus);
            }
            Command::StreamCreate(name) => {
                let done = self.create_stream(name, asked, bus);
                self.conclude(name, "stream_create_response", asked, done, bus);
            }
            Command::StreamUpdate(name) => {
                let done = self.update_stream(name, asked);
                if done.is_ok() {
                    StreamAction { stream: name, action: Action::Modify }.send(&self.context, asked.now, bus);
                }
                self.conclude(name, "stream_update_response", asked, done, bus);
            }
            Command::StreamInfo(name) => {
                let found = self.stream_info(name, asked);
                self.say_as("stream_info_response", asked, found, bus);
            }
            Command::StreamDelete(name) => {
                let done = self.delete_stream(name, asked, bus);
                self.say_as("stream_delete_response", asked, done, bus);
            }
            Command::StreamPurge(name) => {
                let done = self.purge_stream(name, asked);
                self.conclude_done(name, Purged::KIND, asked, done, bus);
            }
            Command::StreamSnapshot(name) => self.snapshot_stream(name, asked, bus),
            Command::StreamRestore(name) => self.restore_stream(name, asked, bus),
            Command::StreamNames => {
                let names = self.stream_names(asked);
                self.say_as("stream_names_response", asked, names, bus);
            }
            Command::StreamList => {
                let infos = self.stream_list(asked);
                self.say_as("stream_list_response", asked, infos, bus);
            }
            Command::MessageGet(name) => {
                let found = self.message_get(name, asked);
                self.say(asked, found, bus);
            }
            Command::MessageDelete(name) => {
                let done = self.message_delete(name, asked);
                self.conclude(name, "stream_msg_delete_response", asked, done, bus);
            }
            Command::DirectGet(name, subject) => self.direct_get(name, subject, asked, bus),
            Command::ConsumerCreate(stream, wanted) => {
                let done = self.create_consumer(stream, wanted, asked, bus);
                self.conclude(stream, "consumer_create_response", asked, done, bus);
            }
            Command::ConsumerInfo(stream, name) => {
                let found = self.consumer_info(stream, name, asked, bus);
                self.say_as("consumer_info_response", asked, found, bus);
            }
            Command::ConsumerDelete(stream, name) => {
                let done = self.delete_consumer(stream, name, asked, bus);
                self.conclude_done(stream, CONSUMER_DELETE, asked, done, bus);
            }
            Command::ConsumerPause(stream, name) => {
                let done = self.pause_consumer(stream, name, asked, bus);
                self.conclude(stream, "consumer_pause_response", asked, done, bus);
            }
            Command::ConsumerReset(stream, name) => {
                let done = self.reset_consumer(stream, name, asked, bus);
                self.conclude(stream, "consumer_reset_response", asked, done, bus);
            }
            Command::ConsumerUnpin(stream, name) => {
                let done = self.unpin_consumer(stream, name, asked, bus);
                self.say_as("consumer_unpin_response", asked, done, bus);
            }
            Command::ConsumerNames(stream) => {
                let names = self.consumer_names(stream, asked);
                self.say_as("consumer_names_response", asked, names, bus);
            }
            Command::ConsumerList(stream) => {
                let infos = self.consumer_list(stream, asked, bus);
                self.say_as("consumer_list_response", asked, infos, bus);
            }
            Command::NextMessages(stream, name) => self.next_messages(stream, name, asked, bus),
            Command::Clustered(kind) => {
                self.say_as::<Deleted>(kind, asked, Err(ApiError::cluster_required()), bus);
            }
        }
    }

    fn create_stream(
        &mut self,
        name: &str,
        asked: Asked<'_>,
        bus: &mut impl Bus,
    ) -> Result<Created, ApiError> {
        let config: StreamConfig = read_or_default(asked.message.payload, self.strictness)?;
        if config.name != name {
            return Err(ApiError::stream_mismatch());
        }
        if config.sealed {
            return Err(ApiError::stream_config("stream configuration for create can not be sealed"));
        }
        if self.backups.restores(name) {
            return Err(ApiError::stream_name_in_use());
        }
        let window = config.duplicate_window;
        let mut config = config.completed()?;
        self.allowed().limit_stream(&mut config, window)?;
        self.check_feeds(&mut config)?;
        if let Some((id, stream, _)) = self.stream_named(name) {
            if stream.config != config {
                return Err(ApiError::stream_name_in_use());
            }
            self.touch(id);
        } else {
            self.check_room(&config, None)?;
            let stream = Stream::create(config, asked.now, &self.context)?;
            self.insert(stream);
            StreamAction { stream: name, action: Action::Create }.send(&self.context, asked.now, bus);
        }
        let (_, stream, context) = self.stream_named(name).ok_or_else(ApiError::stream_not_found)?;
        Ok(Created { info: stream.info(&InfoRequest::default(), asked.now, context), did_create: true })
    }

    fn update_stream(&mut self, name: &str, asked: Asked<'_>) -> Result<StreamInfo, ApiError> {
        let config: StreamConfig = read_or_default(asked.message.payload, self.strictness)?;
        if config.name != name {
            return Err(ApiError::stream_mismatch());
        }
        let before = match self.stream_named(name) {
            Some((_, stream, _)) => stream.config.clone(),
            None => return Err(ApiError::stream_not_found()),
        };
        let window = config.duplicate_window;
        let mut config = config.completed()?;
        self.allowed().limit_stream(&mut config, window)?;
        before.check_update(&mut config)?;
        self.check_feeds(&mut config)?;
        if let Some((_, stream, _)) = self.stream_named(name) {
            stream.check_consumer_limits(&config.consumer_limits)?;
        }
        self.check_room(&config, Some(&before))?;
        let subjects = config.subjects.clone();
        let (id, stream, context) = self.stream_named(name).ok_or_else(ApiError::stream_not_found)?;
        stream.update(config, context)?;
        if subjects != before.subjects {
            self.remove_routes(id);
            self.add_routes(&subjects, id);
        }
        self.arrange_feeds();
        self.touch(id);
        let (_, stream, context) = self.stream_named(name).ok_or_else(ApiError::stream_not_found)?;
        Ok(stream.info(&InfoRequest::default(), asked.now, context))
    }

    /// Checks a configuration against the other streams and what all may use.
    pub(crate) fn check_room(
        &self,
        config: &StreamConfig,
        before: Option<&StreamConfig>,
    ) -> Result<(), ApiError> {
        let others = || self.streams.iter().flatten().filter(|stream| stream.config.name != config.name);
        let taken = others().flat_map(|stream| &stream.config.subjects).any(|theirs| {
            config.subjects.iter().any(|ours| subject::overlaps(ours.as_bytes(), theirs.as_bytes()))
        });
        if taken {
            return Err(ApiError::subjects_overlap());
        }
        let max = self.options.limits.max_streams;
        if before.is_none() && max >= 0 && self.names.len() as i64 >= max {
            return Err(ApiError::maximum_streams());
        }
        self.check_reservation(config)
    }

    fn stream_info(&mut self, name: &str, asked: Asked<'_>) -> Result<Listed<StreamInfo>, ApiError> {
        // What is no JSON asks for nothing in particular, as in nats-server.
        let request: InfoRequest = match asked.message.payload.trim_ascii().first() {
            Some(b'{') => read(asked.message.payload, self.strictness)?,
            _ => InfoRequest::default(),
        };
        let (_, stream, context) = self.stream_named(name).ok_or_else(ApiError::stream_not_found)?;
        let mut info = stream.info(&request, asked.now, context);
        let (mut total, mut limit) = (0, 0);
        if !request.subjects_filter.is_empty() {
            let (found, subjects) = stream.subjects(&request.subjects_filter, request.offset);
            if found > 0 {
                (total, limit) = (found, SUBJECTS_PER_PAGE);
                info.state.subjects = Some(subjects.into_iter().collect());
            }
        }
        Ok(Listed { total, offset: request.offset, limit, page: info })
    }

    fn delete_stream(
        &mut self,
        name: &str,
        asked: Asked<'_>,
        bus: &mut impl Bus,
    ) -> Result<Deleted, ApiError> {
        if !is_nothing(asked.message.payload) {
            return Err(ApiError::not_empty_request());
        }
        let mut stream = self.remove(name).ok_or_else(ApiError::stream_not_found)?;
        stream.remove_consumers(asked.now, bus, &self.context);
        self.tell_finished(name, stream.give_up_chores(), asked.now, bus);
        StreamAction { stream: name, action: Action::Delete }.send(&self.context, asked.now, bus);
        stream.destroy(&self.context).map_err(|error| ApiError::stream_delete(error.to_string()))?;
        Ok(Deleted { success: true })
    }

    fn purge_stream(&mut self, name: &str, asked: Asked<'_>) -> Result<Progress<Purged>, ApiError> {
        let request: Purge = read_or_default(asked.message.payload, self.strictness)?;
        let (id, stream, _) = self.stream_named(name).ok_or_else(ApiError::stream_not_found)?;
        let purged = stream.purge(&request, asked.message)?;
        self.touch(id);
        Ok(purged.map(|purged| Purged { success: true, purged }))
    }

    fn stream_names(&mut self, asked: Asked<'_>) -> Result<Listed<Named<String>>, ApiError> {
        let request: NamesRequest = read_or_default(asked.message.payload, self.strictness)?;
        let names = self.names_matching(&request.subject);
        let (offset, total) = (request.offset.min(names.len()), names.len());
        let page = names.into_iter().skip(offset).take(NAMES_PER_PAGE).collect();
        Ok(Listed { total, offset, limit: NAMES_PER_PAGE, page: Named::Streams(page) })
    }

    fn stream_list(&mut self, asked: Asked<'_>) -> Result<Listed<Named<StreamInfo>>, ApiError> {
        let request: ListRequest = read_or_default(asked.message.payload, self.strictness)?;
        let names = self.names_matching(&request.subject);
        let (offset, total) = (request.offset.min(names.len()), names.len());
        let mut page = Vec::new();
        for name in names.iter().skip(offset).take(INFOS_PER_PAGE) {
            if let Some((_, stream, context)) = self.stream_named(name) {
                page.push(stream.info(&InfoRequest::default(), asked.now, context));
            }
        }
        Ok(Listed { total, offset, limit: INFOS_PER_PAGE, page: Named::Streams(page) })
    }

    fn names_matching(&self, filter: &str) -> Vec<String> {
        let wanted = |id: &usize| {
            let stream = self.streams.get(*id).and_then(Option::as_ref);
            let mut subjects = stream.into_iter().flat_map(|stream| &stream.config.subjects);
            filter.is_empty()
                || subjects.any(|subject| subject::overlaps(subject.as_bytes(), filter.as_bytes()))
        };
        self.names.iter().filter(|(_, id)| wanted(id)).map(|(name, _)| name.clone()).collect()
    }

    fn message_get(&mut self, name: &str, asked: Asked<'_>) -> Result<MessageFound, ApiError> {
        if asked.message.payload.trim_ascii().is_empty() {
            return Err(ApiError::bad_request());
        }
        let request: MessageGet = read(asked.message.payload, self.strictness)?;
        let (_, stream, _) = self.stream_named(name).ok_or_else(ApiError::stream_not_found)?;
        stream.message_get(&request).map(|message| MessageFound { message })
    }

    fn message_delete(&mut self, name: &str, asked: Asked<'_>) -> Result<Deleted, ApiError> {
        if asked.message.payload.trim_ascii().is_empty() {
            return Err(ApiError::bad_request());
        }
        let request: MessageDelete = read(asked.message.payload, self.strictness)?;
        let (id, stream, _) = self.stream_named(name).ok_or_else(ApiError::stream_not_found)?;
        stream.delete_message(request.seq, !request.no_erase)?;
        self.touch(id);
        Ok(Deleted { success: true })
    }

    fn direct_get(&mut self, name: &str, subject: Option<&str>, asked: Asked<'_>, bus: &mut impl Bus) {
        let message = asked.message;
        let Some((id, stream, _)) = self.direct_stream(name).and_then(|name| self.stream_named(&name)) else {
            return no_responders(message, bus);
        };
        let refuse = |text: &str, bus: &mut _| {
            let headers = crate::headers::status(text);
            publish(bus, message.reply, &headers, b"");
        };
        let empty = message.payload.trim_ascii().is_empty();
        let request = match (subject, empty) {
            (Some(subject), true) => DirectGet { last_by_subj: subject.to_owned(), ..DirectGet::default() },
            (Some(_), false) => return refuse("408 Bad Request", bus),
            (None, true) => return refuse("408 Empty Request", bus),
            (None, false) => match serde_json::from_slice(message.payload) {
                Ok(request) => request,
                Err(_) => return refuse("408 Malformed Request", bus),
            },
        };
        if let Some(wish) = stream.direct_get(&request, message.reply, bus) {
            self.begin_reader(Reader::new(id, message.reply, wish, asked.now), asked.now, bus);
        }
    }

    /// Answers at once.
    pub(crate) fn say<T: Answer>(
        &mut self,
        asked: Asked<'_>,
        outcome: Result<T, ApiError>,
        bus: &mut impl Bus,
    ) {
        self.say_as(T::KIND, asked, outcome, bus);
    }

    /// Answers at once, under a type of the caller's.
    pub(crate) fn say_as<T: Serialize>(
        &mut self,
        kind: &str,
        asked: Asked<'_>,
        outcome: Result<T, ApiError>,
        bus: &mut impl Bus,
    ) {
        let text = match outcome {
            Ok(body) => render(kind, &body),
            Err(error) => {
                self.api.errors += 1;
                refusal(kind, &error)
            }
        };
        publish(bus, asked.message.reply, b"", &text);
        self.audit(kind, asked, &text, bus);
    }

    /// Says who listens for it what was asked and answered. Reading messages is nothing that is said of.
    fn audit(&self, kind: &str, asked: Asked<'_>, text: &[u8], bus: &mut impl Bus) {
        if kind != MessageFound::KIND {
            ApiAudit::new(&self.context, asked.message, text).send(&self.context, asked.now, bus);
        }
    }

    /// Answers when what was done to a stream is as safe as the stream promises; refuses at once.
    pub(crate) fn conclude<T: Serialize>(
        &mut self,
        name: &str,
        kind: &'static str,
        asked: Asked<'_>,
        outcome: Result<T, ApiError>,
        bus: &mut impl Bus,
    ) {
        let body = match outcome {
            Ok(body) => body,
            Err(error) => return self.say_as::<T>(kind, asked, Err(error), bus),
        };
        let text = render(kind, &body);
        self.audit(kind, asked, &text, bus);
        match self.stream_named(name) {
            Some((_, stream, _)) => stream.answer(asked.message.reply, &text, Some(kind), bus),
            None => publish(bus, asked.message.reply, b"", &text),
        }
    }
}

impl JetStream {
    /// As [`JetStream::conclude`], unless what was asked takes turns: then it is answered after the last.
    fn conclude_done<T: Serialize>(
        &mut self,
        name: &str,
        kind: &'static str,
        asked: Asked<'_>,
        outcome: Result<Progress<T>, ApiError>,
        bus: &mut impl Bus,
    ) {
        match outcome {
            Ok(Progress::Done(body)) => self.conclude(name, kind, asked, Ok(body), bus),
            Ok(Progress::Later) => {}
            Err(error) => self.conclude::<T>(name, kind, asked, Err(error), bus),
        }
    }

    /// Answers what took turns.
    pub(crate) fn tell_finished(
        &mut self,
        name: &str,
        finished: Vec<(Request, Outcome)>,
        now: i64,
        bus: &mut impl Bus,
    ) {
        for (request, outcome) in finished {
            let message = &request.message();
            let asked = Asked { message, now };
            match outcome {
                Outcome::Purged(outcome) => {
                    let body = outcome.map(|purged| Purged { success: true, purged });
                    self.conclude(name, Purged::KIND, asked, body, bus);
                }
                Outcome::Deleted(outcome) => {
                    let body = outcome.map(|()| Deleted { success: true });
                    self.conclude(name, CONSUMER_DELETE, asked, body, bus);
                }
            }
        }
    }
}

/// Nobody is there who could answer: what the broker says when a subject has no subscriber.
pub(crate) fn no_responders(message: &Incoming<'_>, bus: &mut impl Bus) {
    let mut headers = Vec::new();
    write_no_responders(&mut headers, message.subject);
    publish(bus, message.reply, &headers, b"");
}
