//! Carrying out what is asked about consumers, and what clients say to them.

use crate::advisory::{Action, Advisory, ConsumerAction, ConsumerPause};
use crate::api::{
    ApiError, ConsumerCreate, Deleted, ListRequest, Listed, Named, PauseRequest, Paused, Reset, ResetRequest,
    UnpinRequest, Unpinned, is_nothing, read, read_or_default,
};
use crate::bus::{Bus, Incoming};
use crate::consumer::{AckSubject, Consumer, ConsumerConfig, ConsumerInfo, UnpinReason};
use crate::handle::{Asked, INFOS_PER_PAGE, NAMES_PER_PAGE, no_responders};
use crate::jetstream::JetStream;
use crate::stream::{ConsumerLimits, Progress, Retention, Stream};

/// What a subject says of the consumer to be created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted<'a> {
    /// One that goes when nobody needs it, under a name of our own.
    Ephemeral,
    /// One with this name, and perhaps this filter.
    Named(&'a str, Option<&'a str>),
    /// One with this name that stays.
    Durable(&'a str),
}

impl JetStream {
    pub(crate) fn create_consumer(
        &mut self,
        stream: &str,
        wanted: Wanted<'_>,
        asked: Asked<'_>,
        bus: &mut impl Bus,
    ) -> Result<ConsumerInfo, ApiError> {
        let request: ConsumerCreate = read_or_default(asked.message.payload, self.strictness)?;
        if request.stream_name != stream {
            return Err(ApiError::stream_mismatch());
        }
        let allowed = self.allowed();
        let (id, on, context) = self.stream_named(stream).ok_or_else(ApiError::stream_not_found)?;
        let mut config = request.config;
        let name = match wanted {
            Wanted::Ephemeral if !config.durable_name.is_empty() => {
                return Err(ApiError::ephemeral_with_durable());
            }
            Wanted::Ephemeral if config.name.is_empty() => context.id(8),
            Wanted::Ephemeral => config.name.clone(),
            Wanted::Durable(_) if config.durable_name.is_empty() => {
                return Err(ApiError::durable_name_not_set());
            }
            Wanted::Durable(name) | Wanted::Named(name, _) => {
                let differs = |given: &str| !given.is_empty() && given != name;
                if differs(&config.durable_name) || differs(&config.name) {
                    return Err(ApiError::consumer_name_not_in_subject());
                }
                config.name = name.to_owned();
                name.to_owned()
            }
        };
        if let Wanted::Named(_, Some(filter)) = wanted {
            if !config.filter_subjects.is_empty() {
                return Err(ApiError::filters_in_subject());
            }
            if config.filter_subject != filter {
                return Err(ApiError::create_filter_mismatch());
            }
        }
        if request.pedantic {
            config.check_pedantic(&on.config)?;
        }
        let said = (config.max_ack_pending, config.max_batch);
        let mut config = config.completed(&on.config)?;
        allowed.limit_consumer(&mut config, &on.config, said)?;
        let exists = on.consumers.contains_key(&*name);
        match (&*request.action, exists) {
            ("create" | "update" | "", _) => {}
            (other, _) => {
                return Err(ApiError::invalid_json(format!("unknown consumer action: {other:?}")));
            }
        }
        if request.action == "update" && !exists {
            return Err(ApiError::consumer_does_not_exist());
        }
        let most = allowed.consumers_max(&on.config);
        if !exists && most >= 0 && on.consumers.len() as i64 >= most {
            return Err(ApiError::maximum_consumers());
        }
        check_retention(on, &name, &config)?;
        let action = if exists {
            on.change_consumer(&name, config, &request.action, asked.now, bus)?
        } else {
            Some(on.add_consumer(&name, config, asked.now)?)
        };
        if let Some(action) = action {
            ConsumerAction { stream, consumer: &name, action }.send(context, asked.now, bus);
        }
        let paused = |consumer: &&Consumer| action == Some(Action::Create) && consumer.is_paused(asked.now);
        if let Some(consumer) = on.consumers.get(&*name).filter(paused) {
            ConsumerPause::of(stream, consumer, asked.now).send(context, asked.now, bus);
        }
        let info = on.consumer_info(&name, asked.now, bus, context);
        self.touch(id);
        info
    }

    pub(crate) fn consumer_info(
        &mut self,
        stream: &str,
        name: &str,
        asked: Asked<'_>,
        bus: &impl Bus,
    ) -> Result<ConsumerInfo, ApiError> {
        if !is_nothing(asked.message.payload) {
            return Err(ApiError::not_empty_request());
        }
        let (_, stream, context) = self.stream_named(stream).ok_or_else(ApiError::stream_not_found)?;
        stream.consumer_info(name, asked.now, bus, context)
    }

    pub(crate) fn delete_consumer(
        &mut self,
        stream: &str,
        name: &str,
        asked: Asked<'_>,
        bus: &mut impl Bus,
    ) -> Result<Progress<Deleted>, ApiError> {
        if !is_nothing(asked.message.payload) {
            return Err(ApiError::not_empty_request());
        }
        let (id, stream, context) = self.stream_named(stream).ok_or_else(ApiError::stream_not_found)?;
        let removed = stream.remove_consumer(name, asked.now, bus, context, Some(asked.message));
        let removed = removed.ok_or_else(ApiError::consumer_not_found)?;
        self.touch(id);
        Ok(removed.map(|()| Deleted { success: true }))
    }

    pub(crate) fn pause_consumer(
        &mut self,
        stream: &str,
        name: &str,
        asked: Asked<'_>,
        bus: &mut impl Bus,
    ) -> Result<Paused, ApiError> {
        let request: PauseRequest = read_or_default(asked.message.payload, self.strictness)?;
        let (id, on, context) = self.stream_named(stream).ok_or_else(ApiError::stream_not_found)?;
        let consumer = on.consumers.get_mut(name).ok_or_else(ApiError::consumer_not_found)?;
        let (now, pause_until) = (asked.now, request.pause_until);
        consumer.pause(pause_until, now);
        consumer.save(&mut on.store, now).map_err(|error| ApiError::consumer_create(error.to_string()))?;
        ConsumerPause::of(stream, consumer, now).send(context, now, bus);
        let paused = consumer.is_paused(now);
        (on.dirty, on.wake) = (true, true);
        self.touch(id);
        let remaining = pause_until.nanos().map_or(0, |until| until.saturating_sub(now));
        Ok(Paused { paused, pause_until, pause_remaining: remaining.max(0) })
    }

    pub(crate) fn reset_consumer(
        &mut self,
        stream: &str,
        name: &str,
        asked: Asked<'_>,
        bus: &impl Bus,
    ) -> Result<Reset, ApiError> {
        let request: ResetRequest = read_or_default(asked.message.payload, self.strictness)?;
        let (id, on, context) = self.stream_named(stream).ok_or_else(ApiError::stream_not_found)?;
        let consumer = on.consumers.get_mut(name).ok_or_else(ApiError::consumer_not_found)?;
        let to = (request.seq > 0).then_some(request.seq);
        let reset_seq = consumer.reset(to, &mut on.store)?;
        consumer.save_now = true;
        (on.dirty, on.wake) = (true, true);
        let info = on.consumer_info(name, asked.now, bus, context)?;
        self.touch(id);
        Ok(Reset { info, reset_seq })
    }

    pub(crate) fn unpin_consumer(
        &mut self,
        stream: &str,
        name: &str,
        asked: Asked<'_>,
        bus: &mut impl Bus,
    ) -> Result<Unpinned, ApiError> {
        if asked.message.payload.trim_ascii().is_empty() {
            return Err(ApiError::invalid_json("unexpected end of JSON input"));
        }
        let request: UnpinRequest = read(asked.message.payload, self.strictness)?;
        if request.group.is_empty() {
            return Err(ApiError::invalid_json("consumer group not specified"));
        }
        let (id, on, context) = self.stream_named(stream).ok_or_else(ApiError::stream_not_found)?;
        let consumer = on.consumers.get_mut(name).ok_or_else(ApiError::consumer_not_found)?;
        if !consumer.config.priority_groups.contains(&request.group) {
            return Err(ApiError::invalid_priority_group());
        }
        consumer.unpin(UnpinReason::Admin, stream, asked.now, bus, context);
        on.wake = true;
        self.touch(id);
        Ok(Unpinned {})
    }

    pub(crate) fn consumer_names(
        &mut self,
        stream: &str,
        asked: Asked<'_>,
    ) -> Result<Listed<Named<String>>, ApiError> {
        let request: ListRequest = read_or_default(asked.message.payload, self.strictness)?;
        let (_, stream, _) = self.stream_named(stream).ok_or_else(ApiError::stream_not_found)?;
        let total = stream.consumers.len();
        let offset = request.offset.min(total);
        let page = stream.consumers.keys().skip(offset).take(NAMES_PER_PAGE).map(ToString::to_string);
        Ok(Listed { total, offset, limit: NAMES_PER_PAGE, page: Named::Consumers(page.collect()) })
    }

    pub(crate) fn consumer_list(
        &mut self,
        stream: &str,
        asked: Asked<'_>,
        bus: &impl Bus,
    ) -> Result<Listed<Named<ConsumerInfo>>, ApiError> {
        let request: ListRequest = read_or_default(asked.message.payload, self.strictness)?;
        let (_, stream, context) = self.stream_named(stream).ok_or_else(ApiError::stream_not_found)?;
        let total = stream.consumers.len();
        let offset = request.offset.min(total);
        let names: Vec<_> = stream.consumers.keys().skip(offset).take(INFOS_PER_PAGE).cloned().collect();
        let infos = names.iter().map(|name| stream.consumer_info(name, asked.now, bus, context));
        let page = infos.collect::<Result<Vec<_>, _>>()?;
        Ok(Listed { total, offset, limit: INFOS_PER_PAGE, page: Named::Consumers(page) })
    }

    pub(crate) fn next_messages(&mut self, stream: &str, name: &str, asked: Asked<'_>, bus: &mut impl Bus) {
        let Asked { message, now } = asked;
        let Some((id, stream, context)) = self.stream_named(stream) else {
            return no_responders(message, bus);
        };
        if !stream.request(name, message.payload, message.reply, now, bus, context) {
            return no_responders(message, bus);
        }
        self.touch(id);
    }

    /// Takes what a client says of a delivery.
    pub(crate) fn on_ack(&mut self, message: &Incoming<'_>, now: i64, bus: &mut impl Bus) {
        let Some(ack) = AckSubject::parse(message.subject) else { return };
        let Some((id, stream, context)) = self.stream_named(ack.stream) else { return };
        stream.on_ack(&ack, message, now, bus, context);
        self.touch(id);
    }

    /// Takes the answer to a request of flow control: `$JS.FC.<stream>.<consumer>.<id>`.
    pub(crate) fn on_flow_control(&mut self, message: &Incoming<'_>) {
        let Ok(subject) = std::str::from_utf8(message.subject) else { return };
        let mut tokens = subject.split('.').skip(2);
        let (Some(stream), Some(consumer)) = (tokens.next(), tokens.next()) else { return };
        let Some((id, stream, _)) = self.stream_named(stream) else { return };
        stream.on_flow_control(consumer, message.subject);
        self.touch(id);
    }
}

/// In a work queue every message has one consumer.
fn check_retention(stream: &Stream, name: &str, config: &ConsumerConfig) -> Result<(), ApiError> {
    if stream.config.retention != Retention::WorkQueue {
        return Ok(());
    }
    let others = || stream.consumers.values().filter(|other| &*other.name != name);
    if config.filters().next().is_none() && others().next().is_some() {
        return Err(ApiError::workqueue_multiple_unfiltered());
    }
    if others().any(|other| other.config.overlaps(config)) {
        return Err(ApiError::workqueue_not_unique());
    }
    Ok(())
}

impl Stream {
    /// Names the consumers that have more than these limits allow.
    pub(crate) fn check_consumer_limits(&self, limits: &ConsumerLimits) -> Result<(), ApiError> {
        let beyond = |value: i64, limit: i64| limit > 0 && value > limit;
        let violate = |consumer: &&Consumer| {
            beyond(consumer.config.inactive_threshold, limits.inactive_threshold)
                || beyond(consumer.config.max_ack_pending, limits.max_ack_pending)
        };
        let names: Vec<&str> = self.consumers.values().filter(violate).map(|it| &*it.name).collect();
        if names.is_empty() { Ok(()) } else { Err(ApiError::limits_violate_consumers(&names)) }
    }

    fn add_consumer(&mut self, name: &str, config: ConsumerConfig, now: i64) -> Result<Action, ApiError> {
        self.finish_chores_of(name);
        let mut consumer = Consumer::create(name, config, &self.config.name, &mut self.store, now)?;
        consumer.save(&mut self.store, now).map_err(|error| ApiError::consumer_create(error.to_string()))?;
        consumer.held = true;
        self.consumers.insert(name.into(), consumer);
        (self.dirty, self.wake) = (true, true);
        Ok(Action::Create)
    }

    fn change_consumer(
        &mut self,
        name: &str,
        mut config: ConsumerConfig,
        action: &str,
        now: i64,
        bus: &impl Bus,
    ) -> Result<Option<Action>, ApiError> {
        let consumer = self.consumers.get_mut(name).ok_or_else(ApiError::consumer_not_found)?;
        // It is paused and resumed by another request only.
        config.pause_until = consumer.config.pause_until;
        if consumer.config == config {
            return Ok(None);
        }
        if action == "create" {
            return Err(ApiError::consumer_exists());
        }
        consumer.config.check_update(&config)?;
        if consumer.config.deliver_subject != config.deliver_subject && consumer.is_bound(bus) {
            return Err(ApiError::consumer_name_in_use());
        }
        consumer.update(config, now);
        consumer.save(&mut self.store, now).map_err(|error| ApiError::consumer_create(error.to_string()))?;
        (self.dirty, self.wake) = (true, true);
        Ok(Some(Action::Modify))
    }

    pub(crate) fn consumer_info(
        &mut self,
        name: &str,
        now: i64,
        bus: &impl Bus,
        context: &crate::options::Context,
    ) -> Result<ConsumerInfo, ApiError> {
        let consumer = self.consumers.get_mut(name).ok_or_else(ApiError::consumer_not_found)?;
        let bound = consumer.is_bound(bus);
        Ok(consumer.info(&self.config.name, &mut self.store, bound, now, context))
    }
}
