//! How much a client may take before the server protects the others. Only the numbers; who applies each says so.

use std::time::Duration;

use crate::error::Error;

/// The longest time an option may say, so that it can be added to any moment: beyond what anybody means.
pub(crate) const TIME_MAX: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Refuses a time that is longer than any may be.
pub(crate) fn check_time(option: &'static str, what: &str, time: Duration) -> Result<(), Error> {
    if time <= TIME_MAX {
        return Ok(());
    }
    Err(Error::Option { option, problem: format!("{what} may be at most 100 years") })
}

/// Limits of a server, nats-server's defaults. No time may be longer than 100 years.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Limits {
    /// Bytes of headers and payload of one message. Default 1 MiB. Larger ones end the connection with
    /// `Maximum Payload Violation`.
    pub payload_bytes_max: usize,
    /// Bytes of arguments of one control line. Default 4096, at most 1 MiB.
    pub control_line_bytes_max: usize,
    /// Connections at a time. Default 65,536; the next one is told and closed.
    pub connections_max: usize,
    /// Subscriptions of one connection. Default unlimited.
    pub subscriptions_max: usize,
    /// Bytes waiting for one client. Default 64 MiB. A client that lets more pile up is a slow consumer and is closed
    /// without a word; at three quarters of it, who publishes to it is made to wait.
    pub pending_bytes_max: usize,
    /// Time from connection to a valid CONNECT. Default 2 s.
    pub auth_timeout: Duration,
    /// Silence after which a client is asked for a sign of life. Default 2 min.
    pub ping_interval: Duration,
    /// Unanswered PINGs that make a connection stale. Default 2.
    pub pings_out_max: u32,
    /// Time a client has to take a quarter of the bytes that wait for it. Default 10 s; if it does not it is a slow
    /// consumer.
    pub write_deadline: Duration,
    /// Longest wait of a publisher per read for a subscriber that is three quarters full. Default 10 ms: long enough
    /// to pace it, too short for one stuck subscriber to hold it up for good.
    pub stall_max: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            payload_bytes_max: 1 << 20,
            control_line_bytes_max: 4096,
            connections_max: 65_536,
            subscriptions_max: usize::MAX,
            pending_bytes_max: 64 << 20,
            auth_timeout: Duration::from_secs(2),
            ping_interval: Duration::from_secs(120),
            pings_out_max: 2,
            write_deadline: Duration::from_secs(10),
            stall_max: Duration::from_millis(10),
        }
    }
}

impl Limits {
    /// Nine digits are the most a size may have on the wire.
    const PAYLOAD_BYTES_HIGHEST: usize = 999_999_999;
    /// Far beyond what any client says in a line.
    const CONTROL_LINE_BYTES_HIGHEST: usize = 1 << 20;

    pub(crate) fn check(&self) -> Result<(), Error> {
        let refuse = |option, problem: String| Err(Error::Option { option, problem });
        if self.payload_bytes_max > Self::PAYLOAD_BYTES_HIGHEST {
            return refuse("max_payload", format!("at most {} bytes", Self::PAYLOAD_BYTES_HIGHEST));
        }
        if self.payload_bytes_max > self.pending_bytes_max {
            let problem = format!(
                "{} bytes is more than max_pending ({} bytes): such a message could never be delivered",
                self.payload_bytes_max, self.pending_bytes_max
            );
            return refuse("max_payload", problem);
        }
        if self.control_line_bytes_max < 256 {
            return refuse("max_control_line", "at least 256 bytes, a CONNECT must fit".into());
        }
        if self.control_line_bytes_max > Self::CONTROL_LINE_BYTES_HIGHEST {
            let problem = format!(
                "at most {} bytes: a line may be one subject, and each of its tokens takes memory",
                Self::CONTROL_LINE_BYTES_HIGHEST
            );
            return refuse("max_control_line", problem);
        }
        for (what, time) in [
            ("ping_interval", self.ping_interval),
            ("auth_timeout", self.auth_timeout),
            ("write_deadline", self.write_deadline),
            ("stall_max", self.stall_max),
        ] {
            check_time("limits", what, time)?;
        }
        if self.ping_interval.is_zero() || self.auth_timeout.is_zero() || self.write_deadline.is_zero() {
            return refuse(
                "limits",
                "ping_interval, auth_timeout and write_deadline must be longer than nothing".into(),
            );
        }
        Ok(())
    }

    pub(crate) fn codec(&self) -> ostler_broker_proto::Limits {
        ostler_broker_proto::Limits {
            payload_bytes_max: self.payload_bytes_max,
            control_line_bytes_max: self.control_line_bytes_max,
        }
    }

    /// Bytes waiting for a client from which its publishers are paced.
    pub(crate) fn stall_bytes(&self) -> usize {
        self.pending_bytes_max / 4 * 3
    }
}
