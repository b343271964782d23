//! What a request in pedantic mode is refused for: everything that would be corrected silently otherwise.

use super::ConsumerConfig;
use crate::api::ApiError;
use crate::stream::StreamConfig;

impl ConsumerConfig {
    /// Checks that completing this configuration would add to it only, before it is completed.
    ///
    /// # Errors
    /// 10157 with nats-server's words.
    pub(crate) fn check_pedantic(&self, stream: &StreamConfig) -> Result<(), ApiError> {
        let refuse = |reason: String| Err(ApiError::pedantic(reason));
        for (value, name) in [
            (self.max_waiting, "max_waiting"),
            (self.max_batch, "max_batch"),
            (self.max_expires, "max_expires"),
            (self.max_bytes, "max_bytes"),
            (self.idle_heartbeat, "idle_heartbeat"),
            (self.inactive_threshold, "inactive_threshold"),
            (self.priority_timeout, "priority_timeout"),
        ] {
            if value < 0 {
                return refuse(format!("{name} must not be negative"));
            }
        }
        for (value, name) in [(self.max_deliver, "max_deliver"), (self.max_ack_pending, "max_ack_pending")] {
            if value < -1 {
                return refuse(format!("{name} must be set to -1"));
            }
        }
        if self.backoff.first().is_some_and(|first| *first != self.ack_wait) {
            return refuse("first backoff value has to equal batch AckWait".to_owned());
        }
        let limits = &stream.consumer_limits;
        for (limit, value, name) in [
            (limits.max_ack_pending, self.max_ack_pending, "max_ack_pending"),
            (limits.inactive_threshold, self.inactive_threshold, "inactive_threshold"),
        ] {
            if limit > 0 && value == 0 {
                return refuse(format!("{name} must be set if it's configured in stream limits"));
            }
        }
        Ok(())
    }
}
