//! An embedded NATS server.
#![forbid(unsafe_code)]
