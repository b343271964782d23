//! What an identity may publish and subscribe to. Decides only; sessions ask and tell the client.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ostler_broker_proto::subject::{Filter, InvalidSubject};

/// Which subjects are permitted: those that `allow` names, except those that `deny` names.
///
/// Unlike nats-server's configuration, **an empty `allow` permits nothing**: a list that was computed and came out
/// empty must not open everything. Write [`Rules::all`] for that.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    /// Filters of permitted subjects.
    pub allow: Vec<String>,
    /// Filters of refused subjects; stronger than `allow`.
    pub deny: Vec<String>,
}

impl Rules {
    /// Every subject.
    pub fn all() -> Self {
        Self::allow([">"])
    }

    /// No subject.
    pub fn none() -> Self {
        Self::default()
    }

    /// Exactly what these filters match.
    pub fn allow<S: Into<String>>(filters: impl IntoIterator<Item = S>) -> Self {
        Self { allow: filters.into_iter().map(Into::into).collect(), deny: Vec::new() }
    }

    /// The same, except what these filters match.
    pub fn deny<S: Into<String>>(mut self, filters: impl IntoIterator<Item = S>) -> Self {
        self.deny.extend(filters.into_iter().map(Into::into));
        self
    }
}

/// The permissions of an identity. The default permits nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Permissions {
    /// Subjects it may publish to. Unless these are all, a reply subject it names must be permitted by
    /// [`subscribe`](Self::subscribe) and not be denied here: who answers publishes there with other rights, and a
    /// client must not borrow them.
    pub publish: Rules,
    /// Filters it may subscribe to: a filter must lie wholly inside `allow`. One that partly touches `deny` is
    /// accepted, and denied messages are left out at delivery; but `a.>` is refused where `a.*` is denied, as by
    /// nats-server.
    ///
    /// A rule here may name queue groups behind the filter, as in `jobs.* workers.>`: it is then about subscriptions
    /// with such a group and no others.
    pub subscribe: Rules,
    /// Whether it may answer requests it received, whatever `publish` says.
    pub allow_responses: Option<AllowResponses>,
}

impl Permissions {
    /// Everything.
    pub fn all() -> Self {
        Self { publish: Rules::all(), subscribe: Rules::all(), allow_responses: None }
    }
}

/// The right to publish to the reply subject of a message one received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AllowResponses {
    /// Answers per request. Default 1.
    pub max: u32,
    /// How long after the request. Default 2 min.
    pub ttl: Duration,
}

impl Default for AllowResponses {
    fn default() -> Self {
        Self { max: 1, ttl: Duration::from_secs(120) }
    }
}

/// [`Permissions`] with checked filters.
#[derive(Debug)]
pub(crate) struct Access {
    /// Another for each set that was ever compiled, from 1: remembered verdicts belong to it.
    pub(crate) id: u64,
    pub(crate) publish: Compiled,
    pub(crate) subscribe: Compiled,
    pub(crate) responses: Option<AllowResponses>,
}

#[derive(Debug)]
pub(crate) struct Compiled {
    allow: Vec<Rule>,
    deny: Vec<Rule>,
    everything: bool,
    /// Whether some of `deny` is for members of certain queue groups only.
    denies_by_queue: bool,
}

/// A filter, perhaps for members of certain queue groups only.
#[derive(Debug)]
struct Rule {
    filter: Filter,
    queue: Option<Filter>,
}

impl Rule {
    fn parse(text: &str) -> Result<Self, InvalidSubject> {
        // `filter queue`; whatever else has white space in it is no filter, which parsing it says.
        let (filter, queue) = match text.split_once([' ', '\t']) {
            Some((filter, queue)) => (filter, Some(queue.trim())),
            None => (text, None),
        };
        Ok(Self { filter: Filter::parse(filter)?, queue: queue.map(Filter::parse).transpose()? })
    }

    /// Whether it says something about subscriptions with this queue group, or without one.
    fn is_about(&self, queue: Option<&[u8]>) -> bool {
        match &self.queue {
            None => true,
            Some(rule) => queue.is_some_and(|queue| rule.matches(queue)),
        }
    }
}

impl Access {
    pub(crate) fn compile(permissions: &Permissions) -> Result<Self, (String, InvalidSubject)> {
        static LAST_ID: AtomicU64 = AtomicU64::new(0);
        Ok(Self {
            id: LAST_ID.fetch_add(1, Ordering::Relaxed) + 1,
            publish: Compiled::new(&permissions.publish, false)?,
            subscribe: Compiled::new(&permissions.subscribe, true)?,
            responses: permissions.allow_responses,
        })
    }
}

impl Compiled {
    fn new(rules: &Rules, with_queues: bool) -> Result<Self, (String, InvalidSubject)> {
        let parse = |filters: &[String]| {
            filters
                .iter()
                .map(|text| {
                    // Publishing knows no queues: there a rule is a filter and nothing else.
                    let whole = || Filter::parse(text).map(|filter| Rule { filter, queue: None });
                    let rule = if with_queues { Rule::parse(text) } else { whole() };
                    rule.map_err(|problem| (text.clone(), problem))
                })
                .collect::<Result<Vec<_>, _>>()
        };
        let (allow, deny) = (parse(&rules.allow)?, parse(&rules.deny)?);
        let is_all = |rule: &Rule| rule.queue.is_none() && rule.filter.as_bytes() == b">";
        let everything = deny.is_empty() && allow.iter().any(is_all);
        let denies_by_queue = deny.iter().any(|rule| rule.queue.is_some());
        Ok(Self { allow, deny, everything, denies_by_queue })
    }

    /// Whether there is nothing to check.
    pub(crate) fn is_everything(&self) -> bool {
        self.everything
    }

    /// Whether a message on `subject` may pass to or from who is in no queue group.
    pub(crate) fn permits_subject(&self, subject: &[u8]) -> bool {
        self.everything
            || (self.allow.iter().any(|rule| rule.queue.is_none() && rule.filter.matches(subject))
                && !self.denies_subject(subject, None))
    }

    /// Whether `deny` names `subject` for members of `queue`, or for who is in none.
    pub(crate) fn denies_subject(&self, subject: &[u8], queue: Option<&[u8]>) -> bool {
        self.deny.iter().any(|rule| rule.is_about(queue) && rule.filter.matches(subject))
    }

    /// Whether what [`denies_subject`](Self::denies_subject) says depends on the queue.
    pub(crate) fn denies_by_queue(&self) -> bool {
        self.denies_by_queue
    }

    /// Whether `wanted` may be subscribed to, by a member of `queue` or alone.
    pub(crate) fn permits_filter(&self, wanted: &[u8], queue: Option<&[u8]>) -> bool {
        let covers = |rule: &Rule| rule.is_about(queue) && rule.filter.covers(wanted);
        self.everything
            || (self.allow.iter().any(covers)
                && !self.deny.iter().any(covers)
                // Read as a subject: the rule `a.*` names `a.>` too (client.go canSubscribe).
                && !self.denies_subject(wanted, queue))
    }

    /// Whether some messages of a permitted filter must be left out at delivery.
    pub(crate) fn denies_part_of(&self, wanted: &[u8], queue: Option<&[u8]>) -> bool {
        self.deny.iter().any(|rule| rule.is_about(queue) && rule.filter.overlaps(wanted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compiled(rules: Rules) -> Compiled {
        Compiled::new(&rules, true).unwrap()
    }

    #[test]
    fn nothing_is_permitted_by_default() {
        let nothing = compiled(Rules::default());
        assert!(!nothing.permits_subject(b"a") && !nothing.permits_filter(b">", None));
    }

    #[test]
    fn deny_is_stronger_than_allow() {
        let rules = compiled(Rules::allow(["agent.>"]).deny(["agent.*.secret"]));
        assert!(rules.permits_subject(b"agent.a.output"));
        assert!(!rules.permits_subject(b"agent.a.secret"));
        assert!(!rules.permits_subject(b"tools.call"));
    }

    #[test]
    fn a_filter_must_lie_wholly_inside_allow() {
        let rules = compiled(Rules::allow(["agent.a.>"]));
        assert!(rules.permits_filter(b"agent.a.*", None) && rules.permits_filter(b"agent.a.>", None));
        assert!(!rules.permits_filter(b"agent.*.output", None) && !rules.permits_filter(b">", None));
    }

    #[test]
    fn a_filter_that_touches_deny_is_permitted_and_marked() {
        let rules = compiled(Rules::all().deny(["secret.>"]));
        assert!(rules.permits_filter(b">", None) && rules.denies_part_of(b">", None));
        assert!(!rules.permits_filter(b"secret.a", None));
        assert!(!rules.denies_part_of(b"open.*", None));
    }

    #[test]
    fn a_broken_filter_is_named() {
        let (filter, _) = Compiled::new(&Rules::allow(["a", "b..c"]), true).unwrap_err();
        assert_eq!(filter, "b..c");
    }

    /// Every line was asked of nats-server 2.15.
    #[test]
    fn a_rule_may_be_for_queue_groups_only() {
        let rules = Rules::allow(["foo q.*", "bar", "*.x v1", "deny.>", "part.>", "whole.>"]).deny([
            "deny.q bad.*",
            "deny.x",
            "part.* q",
            "whole.*",
        ]);
        let rules = compiled(rules);
        for (filter, queue, permitted) in [
            ("foo", Some("q.1"), true),
            ("foo", None, false),
            ("foo", Some("z"), false),
            ("bar", None, true),
            ("bar", Some("q"), true),
            ("a.x", Some("v1"), true),
            ("a.x", Some("v2"), false),
            ("a.x", None, false),
            ("deny.q", Some("bad.1"), false),
            ("deny.q", Some("good"), true),
            ("deny.q", None, true),
            ("deny.>", Some("bad.1"), true),
            ("deny.x", Some("q"), false),
            ("deny.>", None, true),
            ("*.x", None, false),
            ("deny.*", Some("bad.1"), true),
            // The rule `*` speaks of everything one token long, and so of `>` in its place.
            ("part.>", Some("q"), false),
            ("part.>", None, true),
            ("whole.>", None, false),
            (">", Some("q"), false),
        ] {
            let is_permitted = rules.permits_filter(filter.as_bytes(), queue.map(str::as_bytes));
            assert_eq!(is_permitted, permitted, "{filter} {queue:?}");
        }
    }

    #[test]
    fn a_denied_subject_is_left_out_for_the_queue_groups_that_the_rule_names() {
        let rules = compiled(Rules::all().deny(["jobs.a wrk", "other"]));
        for (filter, queue, is_partly_denied) in [
            ("jobs.*", Some("wrk"), true),
            ("jobs.*", Some("else"), false),
            ("jobs.*", None, false),
            ("jobs.b", Some("wrk"), false),
            ("*", Some("else"), true),
            ("*", None, true),
        ] {
            let queue = queue.map(str::as_bytes);
            assert_eq!(
                rules.denies_part_of(filter.as_bytes(), queue),
                is_partly_denied,
                "{filter} {queue:?}"
            );
        }
        assert!(rules.denies_subject(b"jobs.a", Some(b"wrk")));
        assert!(!rules.denies_subject(b"jobs.a", Some(b"else")) && !rules.denies_subject(b"jobs.a", None));
        assert!(rules.denies_subject(b"other", Some(b"wrk")) && rules.denies_subject(b"other", None));
    }

    #[test]
    fn queues_have_no_place_in_rules_for_publishing() {
        let publish = Rules::allow(["a q"]);
        assert!(Access::compile(&Permissions { publish, ..Permissions::default() }).is_err());
        assert!(Compiled::new(&Rules::allow(["a q r"]), true).is_err());
        assert!(Compiled::new(&Rules::allow(["a "]), true).is_err());
    }
}
