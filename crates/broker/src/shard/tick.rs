//! What a shard does because time has passed: it looks at silent clients, forgets routes, and calls JetStream. What is
//! due when is in [`timers`](super::timers); the task that sleeps until then is in [`tasks`](super::tasks).

use std::time::{Duration, Instant};

use super::routes::Routes;
use super::timers::{self, Due};
use super::{End, Shard};

/// Routes to subscriptions that ended are forgotten together, so that clients which come and go do not cost a walk each.
const SWEEP_DELAY: Duration = Duration::from_secs(1);

impl Shard {
    pub(super) fn remind(&mut self, at: Instant, due: Due, slot: usize, id: u64) {
        let conns = &self.conns;
        self.timers.shed(self.stats.connections as usize, |entry| {
            conns.get(entry.slot).and_then(Option::as_deref).is_some_and(|conn| conn.link.id == entry.id)
        });
        if self.timers.add(at, timers::Entry { due, slot, id }) {
            self.timers_changed.notify_one();
        }
    }

    /// Has routes to subscriptions that ended forgotten before long.
    pub(super) fn sweep_soon(&mut self) {
        if self.sweep_at.is_none() {
            self.sweep_at = Some(Instant::now() + SWEEP_DELAY);
            self.timers_changed.notify_one();
        }
    }

    /// Does what is due; returns when to come back.
    pub(super) fn tick(&mut self, now: Instant) -> Option<Instant> {
        self.now = now;
        while let Some(timers::Entry { due, slot, id }) = self.timers.pop_due(now) {
            let limits = &self.limits;
            let (ping_interval, pings_out_max) = (limits.ping_interval, limits.pings_out_max);
            let Some(conn) = self.at(slot).filter(|conn| conn.link.id == id) else {
                continue;
            };
            match due {
                Due::Handshake if conn.stream.is_handshaking() => self.close(slot, End::Cut),
                Due::Handshake => {}
                Due::Auth if conn.entry.is_none() => self.close(slot, End::Told("Authentication Timeout")),
                Due::Auth => {}
                // Set anew meanwhile: by CONNECT.
                Due::Ping if now + timers::SLACK < conn.ping_at => {}
                Due::Ping => {
                    let silent = now.saturating_duration_since(conn.last_in) >= ping_interval.mul_f32(0.9);
                    conn.ping_at = now + ping_interval;
                    if conn.was_pinged && !silent {
                        self.remind(now + ping_interval, Due::Ping, slot, id);
                        continue;
                    }
                    conn.was_pinged = true;
                    if conn.pings_out >= pings_out_max {
                        self.close(slot, End::Told("Stale Connection"));
                        continue;
                    }
                    conn.pings_out += 1;
                    conn.pinged_at = Some(now);
                    self.send_with(slot, |out| out.extend_from_slice(b"PING\r\n"));
                    self.remind(now + ping_interval, Due::Ping, slot, id);
                }
            }
        }
        // Not with every tick: streams may have a thousand a second.
        let sweep_at = self.sweep_at.unwrap_or(self.swept_at + SWEEP_DELAY);
        if sweep_at <= now {
            (self.sweep_at, self.swept_at) = (None, now);
            self.routes.iter_mut().for_each(Routes::sweep);
        }
        self.tick_streams(now);
        self.flush();
        self.timers.next().into_iter().chain(self.sweep_at).chain(self.streams.due()).min()
    }
}
