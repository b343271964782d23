//! Priority groups: which of the requests that wait gets the next message, and the pin of a client that gets them all.
//! What is sent, and in which order the stream's messages come, is decided elsewhere.
//!
//! A pin begins when a message goes to a request that names no id: that request gets one, with every message. It ends
//! when its client asked for nothing in `priority_timeout`, when an administrator says so, or with the server. Requests
//! without an id stand by; one with another id is refused.

use ostler_broker_store::Store;
use serde::{Deserialize, Deserializer, Serialize};

use super::deliver::{Chosen, Ground};
use super::pull::{NextRequest, Waiting};
use super::{Consumer, ConsumerConfig};
use crate::advisory::{Advisory, Pinned, Unpinned};
use crate::api::ApiError;
use crate::bus::Bus;
use crate::options::Context;
use crate::time::{SECOND, Time};

/// Of nats-server.
const PRIORITY_TIMEOUT: i64 = 120 * SECOND;
const GROUP_NAME_MAX: usize = 16;
/// Requests say from 0, served first, to this.
const PRIORITY_MAX: i64 = 9;
/// Of those that cannot say: behind all others, as in nats-server.
const PRIORITY_LAST: u8 = 10;

/// Which of those who ask gets a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PriorityPolicy {
    /// Whoever's turn it is.
    #[default]
    None,
    /// Whoever's turn it is of those whose conditions are met.
    Overflow,
    /// One client, until it is gone.
    PinnedClient,
    /// Whoever said the lowest number; in turn when several did.
    Prioritized,
}

impl<'de> Deserialize<'de> for PriorityPolicy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match &*String::deserialize(deserializer)? {
            "" | "none" => Ok(Self::None),
            "overflow" => Ok(Self::Overflow),
            "pinned_client" => Ok(Self::PinnedClient),
            "prioritized" => Ok(Self::Prioritized),
            other => Err(serde::de::Error::custom(format!("unknown priority policy: {other:?}"))),
        }
    }
}

/// A priority group as the API shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PriorityGroupState {
    /// Its name.
    pub group: String,
    /// The id of the client that gets all messages.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub pinned_client_id: String,
    /// Since when.
    pub pinned_ts: Time,
}

/// What a request says of its place among others.
#[derive(Debug, Default)]
pub(super) struct Claim {
    id: Box<str>,
    min_pending: u64,
    min_ack_pending: u64,
    priority: u8,
}

impl Claim {
    /// Whether it may have a message while so many wait to be delivered and so many to be acknowledged. Either of its
    /// conditions is enough.
    fn is_met(&self, pending: u64, ack_pending: u64) -> bool {
        let unconditional = self.min_pending == 0 && self.min_ack_pending == 0;
        unconditional
            || (self.min_pending > 0 && pending >= self.min_pending)
            || (self.min_ack_pending > 0 && ack_pending >= self.min_ack_pending)
    }
}

/// The client that gets all messages.
#[derive(Debug)]
pub(super) struct Pin {
    pub(super) id: Box<str>,
    since: i64,
    until: i64,
}

/// Why a pin ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum UnpinReason {
    /// Somebody asked for it.
    Admin,
    /// Its client asked for nothing in time.
    Timeout,
}

impl ConsumerConfig {
    /// Checks what is said of groups and writes the defaults in.
    pub(super) fn complete_priority(&mut self) -> Result<(), ApiError> {
        if self.priority_policy == PriorityPolicy::None {
            if !self.priority_groups.is_empty() {
                return Err(ApiError::groups_without_policy());
            }
            if self.priority_timeout != 0 {
                return Err(ApiError::pinned_ttl_without_policy());
            }
            return Ok(());
        }
        if self.is_push() {
            return Err(ApiError::push_with_priority_groups());
        }
        if self.priority_groups.is_empty() {
            return Err(ApiError::priority_policy_without_group());
        }
        for group in &self.priority_groups {
            if group.is_empty() {
                return Err(ApiError::empty_priority_group());
            }
            let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_/=".contains(&byte);
            if group.len() > GROUP_NAME_MAX || !group.bytes().all(fits) {
                return Err(ApiError::bad_priority_group());
            }
        }
        if self.priority_policy == PriorityPolicy::PinnedClient && self.priority_timeout <= 0 {
            self.priority_timeout = PRIORITY_TIMEOUT;
        }
        Ok(())
    }
}

impl Consumer {
    /// Reads a request's place among others, or says why it has none. Asking again keeps a pin.
    pub(super) fn claim(&mut self, request: &NextRequest, now: i64) -> Result<Option<Box<Claim>>, String> {
        let policy = self.config.priority_policy;
        let refuse = |reason: &str| Err(format!("400 Bad Request - {reason}"));
        let Some(priority) = u8::try_from(request.priority).ok().filter(|it| i64::from(*it) <= PRIORITY_MAX)
        else {
            return refuse("Priority must be between 0 and 9");
        };
        let conditions = request.min_pending != 0 || request.min_ack_pending != 0;
        if conditions && policy != PriorityPolicy::Overflow {
            return refuse("Not a Overflow Priority consumer");
        }
        if !request.id.is_empty() && policy != PriorityPolicy::PinnedClient {
            return refuse("Not a Pinned Client Priority consumer");
        }
        if policy == PriorityPolicy::None {
            return Ok(None);
        }
        // A bare number has no way to name one.
        if !request.is_short {
            if request.group.is_empty() {
                return refuse("Priority Group missing");
            }
            if !self.config.priority_groups.contains(&request.group) {
                return refuse("Invalid Priority Group");
            }
        }
        if let Some(pin) = self.pin.as_mut().filter(|_| !request.id.is_empty()) {
            if *pin.id != *request.id {
                return Err("423 Nats-Pin-Id mismatch".to_owned());
            }
            pin.until = now.saturating_add(self.config.priority_timeout);
        }
        let count = |number: i64| u64::try_from(number).unwrap_or(0);
        Ok(Some(Box::new(Claim {
            id: request.id.as_str().into(),
            min_pending: count(request.min_pending),
            min_ack_pending: count(request.min_ack_pending),
            priority: if request.is_short { PRIORITY_LAST } else { priority },
        })))
    }

    /// Puts a request behind those of its priority.
    pub(super) fn enqueue(&mut self, waiting: Waiting) {
        if self.config.priority_policy != PriorityPolicy::Prioritized {
            return self.waiting.push_back(waiting);
        }
        let priority = |waiting: &Waiting| waiting.claim.as_ref().map_or(0, |claim| claim.priority);
        let own = priority(&waiting);
        let at = self.waiting.partition_point(|other| priority(other) <= own);
        self.waiting.insert(at, waiting);
    }

    /// Takes out the request that gets the message that is next; `None` when nobody who waits may have it.
    pub(super) fn take_turn<B: Bus>(
        &mut self,
        chosen: &Chosen,
        ground: &mut Ground<'_, B>,
    ) -> Option<Waiting> {
        match self.config.priority_policy {
            PriorityPolicy::None | PriorityPolicy::Prioritized => self.waiting.pop_front(),
            PriorityPolicy::Overflow => self.take_with_conditions(chosen, ground.store),
            PriorityPolicy::PinnedClient => self.take_pinned(ground),
        }
    }

    fn take_with_conditions(&mut self, chosen: &Chosen, store: &mut Store) -> Option<Waiting> {
        // What is delivered again waits too.
        let pending = self.num_pending(store) + u64::from(!chosen.is_new());
        let ack_pending = self.pending.len() as u64;
        let met =
            |waiting: &Waiting| waiting.claim.as_ref().is_none_or(|claim| claim.is_met(pending, ack_pending));
        let at = self.waiting.iter().position(met)?;
        // Those that are passed over had their turn.
        self.waiting.rotate_left(at);
        self.waiting.pop_front()
    }

    fn take_pinned<B: Bus>(&mut self, ground: &mut Ground<'_, B>) -> Option<Waiting> {
        let mut standing_by = 0;
        while standing_by < self.waiting.len() {
            let mut waiting = self.waiting.pop_front()?;
            let claim = waiting.claim.get_or_insert_default();
            match &self.pin {
                None if claim.id.is_empty() => {
                    claim.id = self.begin_pin(ground).into();
                    return Some(waiting);
                }
                Some(pin) if pin.id == claim.id => return Some(waiting),
                Some(_) if claim.id.is_empty() => {
                    self.waiting.push_back(waiting);
                    standing_by += 1;
                }
                // Its pin is over; its client may stand by, without the id.
                _ => waiting.end_with_rest("423 Nats-Wrong-Pin-Id", ground.bus),
            }
        }
        None
    }

    fn begin_pin<B: Bus>(&mut self, ground: &mut Ground<'_, B>) -> String {
        let id = ground.context.id(22);
        let until = ground.now.saturating_add(self.config.priority_timeout);
        self.pin = Some(Pin { id: id.as_str().into(), since: ground.now, until });
        let advisory = Pinned::new(ground.stream, &self.name, self.group(), &id);
        advisory.send(ground.context, ground.now, ground.bus);
        id
    }

    /// Ends the pin, if there is one.
    pub(crate) fn unpin(
        &mut self,
        reason: UnpinReason,
        stream: &str,
        now: i64,
        bus: &mut impl Bus,
        context: &Context,
    ) {
        if self.pin.take().is_some() {
            Unpinned::new(stream, &self.name, self.group(), reason).send(context, now, bus);
        }
    }

    /// Ends the pin of a client that asked for nothing in time.
    pub(super) fn expire_pin<B: Bus>(&mut self, ground: &mut Ground<'_, B>) {
        if self.pin.as_ref().is_some_and(|pin| pin.until <= ground.now) {
            self.unpin(UnpinReason::Timeout, ground.stream, ground.now, ground.bus, ground.context);
        }
    }

    /// When the pin ends by itself.
    pub(super) fn pin_due(&self) -> Option<i64> {
        self.pin.as_ref().map(|pin| pin.until)
    }

    /// Brings pin and requests in line with a configuration that changed.
    pub(super) fn apply_priority(&mut self) {
        if self.config.priority_policy != PriorityPolicy::PinnedClient {
            self.pin = None;
        }
        for waiting in std::mem::take(&mut self.waiting) {
            self.enqueue(waiting);
        }
    }

    fn group(&self) -> &str {
        self.config.priority_groups.first().map_or("", String::as_str)
    }

    /// The groups as the API shows them: as in nats-server there is one place for a pin, under the first name.
    pub(super) fn group_states(&self) -> Vec<PriorityGroupState> {
        let state = |group: &String| PriorityGroupState {
            group: group.clone(),
            pinned_client_id: self.pin.as_ref().map_or_else(String::new, |pin| pin.id.to_string()),
            pinned_ts: self.pin.as_ref().map_or(Time::NONE, |pin| Time::from_nanos(pin.since)),
        };
        self.config.priority_groups.first().map(state).into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn either_condition_is_enough() {
        let claim = |min_pending, min_ack_pending| Claim { min_pending, min_ack_pending, ..Claim::default() };
        assert!(claim(0, 0).is_met(0, 0));
        assert!(claim(3, 0).is_met(3, 0) && !claim(3, 0).is_met(2, 9));
        assert!(claim(0, 2).is_met(0, 2) && !claim(0, 2).is_met(9, 1));
        assert!(claim(3, 2).is_met(0, 2) && claim(3, 2).is_met(3, 0) && !claim(3, 2).is_met(2, 1));
    }

    #[test]
    fn policies_are_read_by_name() {
        let read = |text: &str| serde_json::from_str::<PriorityPolicy>(&format!("{text:?}"));
        assert_eq!(read("pinned_client").unwrap(), PriorityPolicy::PinnedClient);
        assert_eq!(read("").unwrap(), PriorityPolicy::None);
        assert!(read("bogus").unwrap_err().to_string().starts_with("unknown priority policy: \"bogus\""));
    }
}
