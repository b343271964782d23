//! Why connections end, in nats-server's words (client.go `ClosedState`). Only names: who ends one says which it is.

use std::fmt;

/// Why a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CloseReason {
    /// The client hung up.
    ClientClosed,
    /// No valid CONNECT within the time for it.
    AuthenticationTimeout,
    /// A missing or wrong credential.
    AuthenticationFailure,
    /// Its identity was removed or given another credential.
    CredentialsRevoked,
    /// TLS could not be agreed upon.
    TlsHandshakeFailure,
    /// More waited for it than allowed.
    SlowConsumerPendingBytes,
    /// It took too little of what waited for it within the write deadline.
    SlowConsumerWriteDeadline,
    /// Its socket took no more bytes.
    WriteError,
    /// Its socket gave an error instead of bytes, a reset mostly.
    ReadError,
    /// It answered no PING.
    StaleConnection,
    /// It said what the protocol does not know.
    ProtocolViolation,
    /// It sent headers without having declared them in CONNECT.
    MessageHeaderViolation,
    /// It asked for no-responders messages without headers.
    NoRespondersRequiresHeaders,
    /// A message was too large.
    MaxPayloadExceeded,
    /// A control line was too long.
    MaxControlLineExceeded,
    /// The server shut down.
    ServerShutdown,
    /// The server failed at something that is not the client's fault.
    InternalError,
}

impl CloseReason {
    /// The text in `/connz` and in disconnect advisories.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ClientClosed => "Client Closed",
            Self::AuthenticationTimeout => "Authentication Timeout",
            Self::AuthenticationFailure => "Authentication Failure",
            Self::CredentialsRevoked => "Credentials Revoked",
            Self::TlsHandshakeFailure => "TLS Handshake Failure",
            Self::SlowConsumerPendingBytes => "Slow Consumer (Pending Bytes)",
            Self::SlowConsumerWriteDeadline => "Slow Consumer (Write Deadline)",
            Self::WriteError => "Write Error",
            Self::ReadError => "Read Error",
            Self::StaleConnection => "Stale Connection",
            Self::ProtocolViolation => "Protocol Violation",
            Self::MessageHeaderViolation => "Message Header Violation",
            Self::NoRespondersRequiresHeaders => "No Responders Requires Headers",
            Self::MaxPayloadExceeded => "Maximum Message Payload Exceeded",
            Self::MaxControlLineExceeded => "Maximum Control Line Exceeded",
            Self::ServerShutdown => "Server Shutdown",
            Self::InternalError => "Internal Error",
        }
    }

    /// The reason behind the words that the client was told last (`-ERR '<text>'`).
    pub(crate) fn of_told(text: &str) -> Self {
        match text {
            "Authentication Timeout" => Self::AuthenticationTimeout,
            "Authorization Violation" => Self::AuthenticationFailure,
            "Stale Connection" => Self::StaleConnection,
            "Maximum Payload Violation" => Self::MaxPayloadExceeded,
            "maximum control line exceeded" => Self::MaxControlLineExceeded,
            "no responders requires headers support" => Self::NoRespondersRequiresHeaders,
            _ => Self::ProtocolViolation,
        }
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_is_told_gives_the_reason_away() {
        for (told, reason) in [
            ("Authorization Violation", "Authentication Failure"),
            ("maximum control line exceeded", "Maximum Control Line Exceeded"),
            ("Unknown Protocol Operation", "Protocol Violation"),
        ] {
            assert_eq!(CloseReason::of_told(told).to_string(), reason);
        }
    }
}
